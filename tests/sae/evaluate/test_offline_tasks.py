"""The offline tasks on the real packs, where they can be had: how many texts, of what, and that labels are right."""

import numpy as np
import pytest

from matryo.sae.evaluate import offline_tasks
from matryo.sae.evaluate.offline_tasks import OFFLINE, Labelled, make_offline
from matryo.sae.evaluate.tasks import CrossedTask, crossed_problems, problems_of


def made(name):
    try:
        return make_offline(name)
    except OSError as error:
        pytest.skip(f"its pack cannot be had: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OFFLINE if not name.startswith("pydocs")])
def test_tasks_of_packs_are_large_distinct_and_can_be_split(name):
    one = made(name)
    assert len(one.texts) == len(set(one.texts)) >= (1_900 if isinstance(one, CrossedTask) else 2_000)
    if isinstance(one, CrossedTask):
        assert np.bincount(one.quadrants, minlength=4).min() >= 400
        assert len(crossed_problems(one, 0, 4000, 1000)) == 3
    else:
        counts = np.bincount(one.labels)
        assert counts.min() >= 400
        assert len(problems_of(one, 0, 4000, 1000)) == (1 if len(one.classes) == 2 else len(one.classes))
    assert one.source["sha256"] and one.source["licence"]


def test_definitions_have_no_examples_and_neighbours_are_one_document():
    one = made("wordnet-topic")
    assert not any('; "' in text for text in one.texts)
    assert all(group.startswith("noun/") for group in one.groups)
    assert 100 < len(set(one.groups)) < len(one.texts)
    animals = [t for t, label in zip(one.texts, one.labels, strict=True) if one.classes[label] == "animal"]
    assert sum("bird" in t or "fish" in t or "mammal" in t or "insect" in t for t in animals) > 50


def test_crossed_sentiment_has_no_films_and_both_labels():
    one = made("sentiment-x-domain")
    assert one.classes == (("negative", "positive"), ("amazon", "yelp"))
    for group, (sentiment, domain) in zip(one.groups, one.labels, strict=True):
        assert group.split("/")[1:3] == [("amazon", "yelp")[domain], ("negative", "positive")[sentiment]]


class Docs:
    """Documents as pydocs gives them, made up."""

    def describe(self):
        return {"kind": "pydocs"}

    def documents(self):
        from matryo.sae.text import Document

        for at in range(40):
            for package in ("torch", "transformers", "sympy", "networkx", "python"):
                body = f"{package} documentation {at} " + "about this and that " * 5
                name = f"{package}/{at // 2}"
                yield Document(f"class {package}.X{at}(y)\n\n{body}", f"d/{name}/{at}", name, f"{package}/docs")
                source = (
                    f"import {package}\n" + "#" * 125 + f"\nrest of a line\n{package} code {at} " + "x = y + z\n" * 9
                )
                yield Document(source, f"s/{name}/{at}", name, f"{package}/source")


def test_docstrings_lose_their_signature_and_sources_their_imports(monkeypatch):
    monkeypatch.setattr(offline_tasks, "_pydocs_source", Docs)
    offline_tasks._pydocs_texts.cache_clear()
    try:
        one, pair = make_offline("pydocs-library"), make_offline("pydocs-kind-x-library")
    finally:
        offline_tasks._pydocs_texts.cache_clear()
    assert len(one.texts) == 200 and not any("class" in text for text in one.texts)
    assert all(text.startswith(one.classes[label]) for text, label in zip(one.texts, one.labels, strict=True))
    assert len(pair.texts) == 160
    for text, (kind, library) in zip(pair.texts, pair.labels, strict=True):
        assert "import" not in text
        assert text.startswith(f"{('torch', 'transformers')[library]} {('documentation', 'code')[kind]}")


def test_texts_are_distinct_and_drawn_by_hash():
    texts = [Labelled(f"text {at % 30}", f"g{at}", at % 30 // 15) for at in range(90)]
    chosen = offline_tasks._choose(texts, 10)
    assert len({one.text for one in chosen}) == 20
    assert [one.label for one in chosen] == [0] * 10 + [1] * 10
    assert chosen == offline_tasks._choose(reversed(texts[-30:]), 10)
    assert [one.text for one in chosen[:10]] != [f"text {at}" for at in range(10)]
