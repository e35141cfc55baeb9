"""The benchmark's own arithmetic, and that nothing is dropped in silence. Nothing here looks at a time."""

import importlib
import math
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def load(monkeypatch):
    """Import a module of bench/, which is no part of the package."""
    monkeypatch.syspath_prepend(str(ROOT))
    yield importlib.import_module
    for name in [name for name in sys.modules if name == "bench" or name.startswith("bench.")]:
        del sys.modules[name]


def small(load):
    return load("bench.workload").Shape(d_in=48, n_latents=320, batch=160, k=6)


@pytest.mark.parametrize(("n", "rank"), [(4, 1), (5, 1), (8, 2), (15, 4), (31, 11)])
def test_the_interval_is_the_narrowest_pair_that_covers_the_median(load, n, rank):
    low, high = load("bench.timing").interval([float(i) for i in range(n, 0, -1)])
    assert (low, high) == (rank, n + 1 - rank)

    def covers(r):
        """P(x_(r) ≤ median ≤ x_(n+1-r)): the number of draws below the median is binomial(n, 1/2)."""
        return sum(math.comb(n, below) for below in range(r, n - r + 1)) / 2**n

    assert covers(rank) >= 0.9 or n < 5
    assert covers(rank + 1) < 0.9


def test_everyone_takes_part_in_every_round_between_two_products(load, monkeypatch):
    timing = load("bench.timing")
    clock = iter(range(10**6))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    seen = []

    class Product:
        def __call__(self):
            seen.append("product")
            return 2.0

    product = Product()
    batches = [torch.full((1,), float(i)) for i in range(3)]

    def entrant(name, every=1, fails=False):
        def run(x):
            seen.append((name, int(x)))
            if fails:
                raise ValueError("no\nsecond line")

        return timing.Entrant(name, run, product, batches, every)

    entrants = [entrant("a"), entrant("b", every=2), entrant("c", fails=True)]
    timing.interleave(entrants, rounds=4, warm=1)
    a, b, c = entrants
    assert a.rounds == [0, 1, 2, 3]
    assert b.rounds == [0, 2]
    assert a.visited == [2, 0, 1, 2, 0]
    assert c.error == "ValueError: no"
    assert sum(isinstance(event, tuple) and event[0] == "c" for event in seen) == 1
    assert a.ratios == [s / 2.0 for s in a.seconds]
    assert timing.against(b, a) == [b.ratios[0] / a.ratios[0], b.ratios[1] / a.ratios[2]]
    timed = [i for i, event in enumerate(seen) if event != "product" and event[0] != "c"]
    assert all(seen[i - 1] == "product" and seen[i + 1] == "product" for i in timed)


def test_the_workload_has_the_sparsity_it_promises(load):
    workload = load("bench.workload")
    shape = small(load)
    work = workload.make(shape, dead_fraction=0.1)
    energy = torch.stack([x.square().sum(1).mean() for x in work.batches]).mean()
    assert float(energy) == pytest.approx(shape.d_in, rel=1e-5)
    pre = (work.batches[0] - work.b_dec) @ work.enc_rows.t()
    assert float((pre > work.threshold).sum()) / shape.batch == pytest.approx(shape.k, rel=0.01)
    assert int(work.dead.sum()) == 32
    assert not bool((pre[:, work.dead] > work.threshold).any())


@pytest.mark.parametrize(
    ("kind", "aux"),
    [(kind, aux) for kind in ("batch_topk", "topk", "matryoshka") for aux in (False, True)]
    + [("jumprelu", False), ("relu", False)],
)
def test_our_contender_trains_as_asked(load, kind, aux):
    contender, workload = load("bench.contender"), load("bench.workload")
    shape = small(load)
    task = contender.Task(kind, shape, aux)
    work = workload.make(shape, 0.1 if aux else 0.0)
    ours = load("bench.peers").contenders(kind)[0]
    assert ours.name == "matryo"
    ours.setup(task, work)
    if aux:
        ours.mark_dead(work.dead)
    x = work.batches[0]
    _, l0 = ours.reconstruct(x)
    assert l0 == pytest.approx(shape.k, rel=0.05 if kind in ("jumprelu", "relu") else 1e-6)
    for _ in range(4):
        ours.step(x)
    assert len(ours.losses) == 4
    assert ours.losses[-1] < ours.losses[0]
    if aux:
        assert ours.dead_count() == 32
    weights = 2 * shape.d_in * shape.n_latents * 4
    assert sum(t.numel() * t.element_size() for t in ours.state()) >= 3 * weights


def test_our_encoder_is_the_threshold_rule(load):
    contender, workload = load("bench.contender"), load("bench.workload")
    shape = small(load)
    work = workload.make(shape)
    ours = load("bench.peers").contenders("batch_topk")[0]
    ours.setup_encoder(contender.Task("batch_topk", shape), work)
    found = ours.encode(work.batches[1]).dense()
    pre = (work.batches[1] - work.b_dec) @ work.enc_rows.t()
    assert torch.allclose(found, pre * (pre > work.threshold), atol=1e-5)


def test_a_missing_library_and_a_failing_one_are_rows_of_the_table(load, monkeypatch):
    sections, report = load("bench.sections"), load("bench.report")
    matryo = load("bench.peers.matryo").Matryo

    class Missing(matryo):
        library = "gone"

        def setup(self, task, work):
            raise ModuleNotFoundError("No module named 'gone'")

    class Failing(matryo):
        library = "broken"

        def step(self, x):
            raise RuntimeError("out of luck")

    kind = "batch_topk"
    monkeypatch.setattr(sections, "contenders", lambda kind: [matryo(kind), Missing(kind), Failing(kind)])
    found = sections.time_steps(kind, small(load), rounds=2, warm=1)
    states = {row["library"]: row["state"] for row in found["rows"]}
    assert states == {"matryo": "measured", "gone": "missing", "broken": "failed"}
    ours = found["rows"][0]
    assert ours["times_ours"]["median"] == 1
    assert ours["doubts"] == []
    run = {"rounds": 2, "warm": 1, "date": "d", "commit": "c", "machine": "m", "threads": 1, "torch": "t"}
    section = {"title": "T", "state": "measured", "run": run, **found}
    text = report.markdown({"run": run, "sections": {f"step-{kind}": section}, "notes": {"matryo": "n"}})
    assert "* gone: missing (ModuleNotFoundError: No module named 'gone')" in text
    assert "* broken: failed (RuntimeError: out of luck)" in text


def test_a_contender_that_does_not_learn_is_in_doubt(load):
    sections, contender = load("bench.sections"), load("bench.contender")
    task = contender.Task("topk", small(load), aux=True)
    assert sections._fall([3.0, 5.0, 2.5], [0, 1, 0]) == 0.5
    assert sections._fall([3.0, 5.0], [0, 1]) is None
    row = {"fvu_before": 0.2, "fvu": 0.2, "l0": 9.0, "dead": 3, "loss_fell": None}
    assert len(sections._doubts(row, task)) == 3
    assert sections._doubts({**row, "loss_fell": 0.5, "l0": 6.0, "dead": 32}, task) == []
