"""SAEBench's sets read from local files of the same schema, and what is said when they are not to be had."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from matryo.sae.evaluate.hub_tasks import CATEGORIES, HUB, LANGUAGES, PROFESSIONS, make_hub
from matryo.sae.text import HubSource


def write(folder, columns, config=None):
    place = folder / config / "data" if config else folder / "data"
    place.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), place / "train-00000-of-00001.parquet")
    return str(folder)


def bios(folder, rows=400):
    draw = random.Random(0)
    professions = [draw.choice(range(28)) if at % 2 else draw.choice([13, 21, 0, 1, 2, 6, 9]) for at in range(rows)]
    genders = [draw.choice([0, 1]) for _ in range(rows)]
    texts = [
        f"person {at} is a {PROFESSIONS[p]} {'mf'[g]}"
        for at, (p, g) in enumerate(zip(professions, genders, strict=True))
    ]
    return write(folder, {"hard_text": texts, "profession": professions, "gender": genders})


def reviews(folder, rows=400):
    draw = random.Random(1)
    names = {number: name for name, number in CATEGORIES.items()}
    categories = [draw.choice([1, 2, 3, 5, 6, 24, 26, 9]) for _ in range(rows)]
    stars = [draw.choice([1.0, 5.0]) for _ in range(rows)]
    texts = [f"{at} {names.get(c, 'other')} {s}" for at, (c, s) in enumerate(zip(categories, stars, strict=True))]
    return write(folder, {"text": texts, "category": categories, "rating": stars})


def test_bias_in_bios_gives_professions_half_men_half_women(tmp_path):
    made = make_hub("bias_in_bios_1", bios(tmp_path), 10)
    assert made.classes == ("accountant", "architect", "attorney", "dentist", "filmmaker")
    assert [(made.labels == label).sum() for label in range(5)] == [10] * 5
    for text, label in zip(made.texts, made.labels, strict=True):
        assert f"is a {made.classes[label]} " in text
    assert [
        sum(t.endswith(" m") for t, y in zip(made.texts, made.labels, strict=True) if y == c) for c in range(5)
    ] == [5] * 5
    assert len(set(made.groups)) == 50
    assert made.source["name"] == "LabHC/bias_in_bios"


def test_pairs_of_bios_cross_profession_with_gender(tmp_path):
    made = make_hub("bios_professor_nurse", bios(tmp_path), 8)
    assert made.classes == (("nurse", "professor"), ("female", "male"))
    for text, (profession, gender) in zip(made.texts, made.labels, strict=True):
        assert f"is a {('nurse', 'professor')[profession]} {'fm'[gender]}" in text
    assert [(made.quadrants == q).sum() for q in range(4)] == [8] * 4


def test_amazon_reviews_by_category_and_by_stars(tmp_path):
    folder = reviews(tmp_path)
    made = make_hub("amazon_category", folder, 12)
    assert [(made.labels == label).sum() for label in range(5)] == [12] * 5
    assert all(made.classes[label] in text for text, label in zip(made.texts, made.labels, strict=True))
    assert sum(text.endswith("5.0") for text in made.texts) == 30
    stars = make_hub("amazon_sentiment", folder, 20)
    assert all(text.endswith(("1.0", "5.0")[label]) for text, label in zip(stars.texts, stars.labels, strict=True))
    assert [(stars.labels == label).sum() for label in range(2)] == [20, 20]
    pair = make_hub("amazon_books_cds_and_vinyl", folder, 9)
    for text, (category, five) in zip(pair.texts, pair.labels, strict=True):
        assert ("CDs_and_Vinyl", "Books")[category] in text and text.endswith(("1.0", "5.0")[five])


def test_ag_news(tmp_path):
    folder = write(tmp_path, {"text": [f"news {at}" for at in range(60)], "label": [at % 4 for at in range(60)]})
    made = make_hub("ag_news", folder, 7)
    assert made.classes == ("world", "sports", "business", "sci/tech")
    assert all(int(text.split()[1]) % 4 == label for text, label in zip(made.texts, made.labels, strict=True))
    assert len(made.texts) == 28


def test_europarl_reads_each_language_of_its_pair(tmp_path):
    for pair in LANGUAGES.values():
        one, other = pair.split("-")
        rows = [{one: f"{one} {pair} {at}", other: f"{other} {pair} {at}"} for at in range(15)]
        write(tmp_path, {"translation": rows}, pair)
    made = make_hub("europarl", str(tmp_path), 6)
    assert made.classes == tuple(LANGUAGES)
    for text, label in zip(made.texts, made.labels, strict=True):
        language = made.classes[label]
        assert text.startswith(f"{language} {LANGUAGES[language]} ")
    assert len(made.texts) == 30 and len(set(made.groups)) == 30


@pytest.mark.parametrize("schema", ["files", "rows of its script"])
def test_github_code_skips_licences_and_short_files(tmp_path, schema):
    suffixes = {"C": "c", "HTML": "html", "Java": "java", "PHP": "php", "Python": "py", "Ruby": "rb"}
    languages = [list(suffixes)[at % 6] for at in range(60)]
    code = [f"{'/' * 150}{language} {'x' * (500 if at % 7 else 300)}" for at, language in enumerate(languages)]
    paths = [f"src/Main.{suffixes[language]}" for language in languages]
    told = {"content": code, "path": paths} if schema == "files" else {"code": code, "language": languages}
    made = make_hub("github_code", write(tmp_path, {**told, "repo_name": ["a/b"] * 60}), 5)
    assert [(made.labels == label).sum() for label in range(5)] == [5] * 5
    for text, label in zip(made.texts, made.labels, strict=True):
        assert text.startswith(made.classes[label] + " xxx") and len(text) > 384


def test_rows_without_the_fields_are_named(tmp_path):
    folder = write(tmp_path, {"body": ["x"] * 4, "label": [0, 1, 2, 3]})
    with pytest.raises(
        ValueError, match="task ag_news: row 0 has body: str, label: int; expected the fields of fancyzhx"
    ) as e:
        make_hub("ag_news", folder, 2)
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere.*expected a local copy of fancyzhx/ag_news"):
        make_hub("ag_news", str(tmp_path / "nowhere"), 2)


def test_a_set_that_cannot_be_reached_is_one_line(monkeypatch):
    import huggingface_hub

    def fail(*_, **__):
        raise huggingface_hub.errors.OfflineModeIsEnabled("Cannot reach https://huggingface.co\nmore")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    with pytest.raises(OSError, match=r"cannot open data set 'fancyzhx/ag_news'.*check name.*network") as caught:
        make_hub("ag_news", None, 2)
    assert "\n" not in str(caught.value)


def test_files_of_a_repository_with_a_script_are_read_as_parquet(monkeypatch):
    import datasets

    asked = {}

    def load(path, **told):
        asked.update(path=path, **told)
        return iter(())

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = HubSource(HUB["github_code"].repo, files=HUB["github_code"].files)
    source.__dict__["_info"] = ("abc123", "other")
    assert list(source.rows()) == []
    assert asked["path"] == "parquet" and asked["streaming"]
    assert asked["data_files"] == "hf://datasets/codeparrot/github-code@abc123/data/train-*.parquet"
