"""Which words are measured, what the prompts say, and the task as a whole."""

import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from matryo.sae.evaluate.absorption import AbsorptionConfig, prompts, read_activations, read_words
from matryo.sae.evaluate.absorption.hypernyms import classes_of
from matryo.sae.evaluate.absorption.task import absorption_task
from matryo.sae.evaluate.absorption.telling import draw
from matryo.sae.evaluate.subjects import Subjects
from matryo.sae.lm import LM, capture, load_lm
from matryo.sae.nn import SAEConfig, build
from matryo.sae.text import PACKS, PackSource
from matryo.sae.text.wordnet import read_nouns
from matryo.spine.fetch import archive_path

SITE = "blocks.2.resid_pre"


@pytest.fixture(scope="module")
def lm() -> LM:
    return load_lm("tiny")


def test_first_letters_are_those_of_every_token_of_letters(lm):
    words = read_words(lm, "first-letter")
    assert len(words.texts) > 1000 and words.labels.sum(1).eq(1).all()
    expected = {i for i in range(len(lm.tokenizer)) if lm.decode([i]).removeprefix(" ").encode().isalpha()}
    assert set(words.ids.tolist()) <= expected and len(words.texts) > 0.95 * len(expected)
    for i in range(0, len(words.texts), 97):
        assert lm.decode([int(words.ids[i])]) == words.texts[i]
        assert words.answer(i) == words.texts[i].strip()[0].lower()


def test_words_of_a_file_have_parents_and_children(lm, tmp_path: Path):
    (tmp_path / "kinds.csv").write_text(
        "word,parent,child\nman,person,\nking,person,ruler\nking,office,\nriver,,\nzzxqj,person,\n"
    )
    words = read_words(lm, f"file:{tmp_path / 'kinds.csv'}")
    told = {
        text: ([words.classes[j] for j in words.labels[i].nonzero()[:, 0]], words.children[i])
        for i, text in enumerate(words.texts)
    }
    assert told == {" man": (["person"], None), " king": (["person", "office"], "ruler"), " river": ([], None)}
    assert words.answer(words.texts.index(" river")) is None
    (tmp_path / "wrong.csv").write_text("token,label\nman,person\n")
    with pytest.raises(ValueError, match="'token,label'; expected the columns word, parent"):
        read_words(lm, f"file:{tmp_path / 'wrong.csv'}")
    (tmp_path / "none.tsv").write_text("word\tparent\nzzxqj\tperson\n")
    with pytest.raises(ValueError, match="none of 1 words is a single token"):
        read_words(lm, f"file:{tmp_path / 'none.tsv'}")
    with pytest.raises(ValueError, match="did you mean 'first-letter'"):
        read_words(lm, "first-leter")


INDEX = """  1 licence
dog n 2 2 @ ~ 2 1 00000003 00000009
hot_dog n 1 1 @ 1 0 00000003
"""
DATA = """  1 licence
00000001 03 n 01 entity 0 001 ~ 00000002 n 0000 | what is
00000002 03 n 02 animal 0 beast 0 002 @ 00000001 n 0000 ~ 00000003 n 0000 | alive
00000003 05 n 01 dog 0 003 @ 00000002 n 0000 @ 00000004 n 0000 #m 00000001 n 0000 | barks
00000004 03 n 01 pet 0 001 @i 00000001 n 0000 | at home
"""


def test_wordnets_files_are_read_as_its_manual_says(tmp_path: Path):
    folder = tmp_path / "package" / "dict"
    folder.mkdir(parents=True)
    (folder / "index.noun").write_text(INDEX)
    (folder / "data.noun").write_text(DATA)
    with tarfile.open(tmp_path / "wordnet.tgz", "w:gz") as tar:
        tar.add(tmp_path / "package", "package")
    nouns = read_nouns(tmp_path / "wordnet.tgz")
    assert nouns.senses == {"dog": ("00000003", "00000009"), "hot dog": ("00000003",)}
    assert nouns.names["00000002"] == "animal"
    paths = {tuple(nouns.names[synset] for synset in path) for path in nouns.kinds("00000003")}
    assert paths == {("dog", "animal", "entity"), ("dog", "pet", "entity")}


def test_nouns_of_the_pack_are_of_their_kinds():
    pack = PACKS["wordnet"]
    if not archive_path(pack.registry, pack.package, pack.version).is_file():
        pytest.skip("the WordNet pack is not in the cache")
    nouns = read_nouns(PackSource(pack).archive())
    assert dict(classes_of(nouns, "dog")) == {"animal": "chordate"}
    assert [name for name, _ in classes_of(nouns, "rose")] == ["plant"]
    assert [name for name, _ in classes_of(nouns, "nurse")] == ["person"]
    assert classes_of(nouns, "number") == []


def test_prompts_hold_examples_of_their_own_side_and_end_in_the_word(lm, monkeypatch):
    words, seen = read_words(lm, "first-letter"), []
    plain = prompts.capture_endings

    def spy(lm, prompt, endings, site):
        seen.append((prompt, endings))
        return plain(lm, prompt, endings, site)

    monkeypatch.setattr(prompts, "capture_endings", spy)
    template = "{word} has the first letter:"
    found = read_activations(lm, SITE, words, template, examples=4, share_prompt=8, limit=50, seed=3)
    assert int(found.train.sum()) == 40 and len(seen) == 5 + 2
    sides = {text: bool(side) for text, side in zip(found.words.texts, found.train, strict=True)}
    done = 0
    for prompt, endings in seen:
        text = lm.decode(prompt[1:].tolist())
        assert int(prompt[0]) == lm.bos_id and text[0] == text[-1] == "\n"
        group = found.words.texts[done : done + len(endings)]
        lines = text[1:-1].split("\n")
        assert len(lines) == 4
        for line in lines:
            word, _, answer = line.partition(" has the first letter: ")
            assert answer == word.strip()[0].upper()
            assert word not in group and sides[word] == sides[group[0]]
        rows = torch.cat([prompt.expand(len(endings), -1), endings], 1)
        expected = capture(lm, rows, [SITE])[SITE][:, -1]
        torch.testing.assert_close(found.x[done : done + len(endings)], expected, rtol=1e-4, atol=1e-4)
        assert endings[:, 0].tolist() == found.words.ids[done : done + len(endings)].tolist()
        done += len(endings)
    assert done == 50
    with pytest.raises(ValueError, match="8 words to draw 10 examples from"):
        read_activations(lm, SITE, words, template, limit=40)


def subjects(lm: LM, n_latents: int = 96) -> Subjects:
    saes = {f"s{seed}": build(SAEConfig(d_in=lm.d_model, n_latents=n_latents, k=8, seed=seed)) for seed in (0, 1)}
    words = read_words(lm, "first-letter")
    x = read_activations(lm, SITE, words, "{word}:", examples=2, limit=300).x
    for sae in saes.values():
        sae.initialise(x)
        sae.calibrate([x])
    return Subjects(
        saes={name: sae.eval() for name, sae in saes.items()},
        runs=dict.fromkeys(saes, "run"),
        site=SITE,
        lm_name="tiny",
        processing={},
        rows_folder=None,
        store_source=None,
    )


def test_the_task_says_what_it_measured_refused_and_missed(lm, tmp_path: Path):
    (tmp_path / "ends.csv").write_text("word,parent\n" + "".join(f"{w},{w[-1]}\n" for w in ("man", "king")))
    config = AbsorptionConfig(
        absorption_labels=("first-letter", f"file:{tmp_path / 'ends.csv'}", "file:/nowhere.csv"),
        absorption_words=1500,
        absorption_examples=2,
        absorption_probe_epochs=10,
        absorption_min_f1=0.3,
        absorption_min_classes=1,
    )
    group, counted = subjects(lm), []
    outcome = absorption_task(group, config, lambda n, **_: counted.append(n))
    assert sum(counted) == 1500
    assert "words to draw 2 examples from; expected more" in outcome.missing[f"file:{tmp_path / 'ends.csv'}"]
    assert "No such file" in outcome.missing["file:/nowhere.csv"]
    weak = dict(re.findall(r"\b([a-z]) (0\.\d\d)", outcome.missing["first-letter, weak probes"]))
    few = outcome.missing.get("first-letter, too few words", "").partition(": ")[2].split(", ")
    refused = {*weak, *filter(None, few)}
    assert max(map(float, weak.values())) <= 0.3
    rows = outcome.tables["classes"].rows
    assert {row[2] for row in rows} == set("abcdefghijklmnopqrstuvwxyz") - refused
    assert len(rows) == 2 * (26 - len(refused))
    for sae in group.saes:
        full = [row[3] for row in rows if row[0] == sae]
        assert outcome.scores[sae]["full_absorption"] == pytest.approx(sum(full) / len(full))
        low, high = outcome.intervals[sae]["full_absorption"]
        assert low <= outcome.scores[sae]["full_absorption"] <= high
        for score, column in (("full_absorption", 3), ("fraction_absorption", 4), ("split_latents", 5)):
            values = np.array([row[column] for row in rows if row[0] == sae], float)
            drawn = np.random.default_rng(0).choice(values, (20_000, len(values))).mean(1)
            ends = np.quantile(drawn, [0.025, 0.975])
            low, high = outcome.intervals[sae][score]
            assert (low, high) == pytest.approx(ends, abs=0.06 * (ends[1] - ends[0]) + 1e-12)
        told = outcome.extra["saebench"][sae]
        assert told["metrics"]["mean"]["mean_full_absorption_score"] == outcome.scores[sae]["full_absorption"]
        assert len(told["details"]) == len(full) and told["config"]["model_name"] == "tiny"
        for one, row in zip(told["details"], (row for row in rows if row[0] == sae), strict=True):
            assert (one["first_letter"], one["full_absorption_rate"]) == (row[2], row[3])
            assert (one["mean_absorption_fraction"], one["num_split_features"]) == (row[4], row[5])
            assert one["num_full_absorption"] == pytest.approx(row[3] * row[6], abs=1e-9)
            assert one["num_probe_true_positives"] == row[6]
    assert any("adapted, not comparable with published scores" in note for note in outcome.notes)
    ((svg, caption),) = draw([outcome])
    assert svg.startswith("<svg") and "first-letter" in caption and "s1" in svg
    assert outcome.constants["absorption_share"] == 0.4
    assert outcome.data["first-letter"]["words"] == 1500


def test_a_task_without_any_labels_says_why(lm):
    with pytest.raises(ValueError, match=r"file:/nowhere.csv: .*No such file"):
        absorption_task(subjects(lm), AbsorptionConfig(absorption_labels=("file:/nowhere.csv",)))


@pytest.mark.parametrize(
    ("field", "value"),
    [("absorption_train_share", 1.0), ("absorption_template", "first letter:"), ("absorption_examples", 0)],
)
def test_constants_that_make_no_sense_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        AbsorptionConfig(**{field: value})
