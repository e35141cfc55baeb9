"""Metrics against their definitions, and meters against any way of cutting tokens into batches."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from matryo.sae.metrics import (
    ActivityMeter,
    CountMeter,
    FidelityMeter,
    FvuMeter,
    MeanMeter,
    ce_recovered,
    fvu,
    nearest_cosines,
)

TOKENS, D = 97, 5


def tokens(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(TOKENS, D, generator=generator, dtype=dtype) * torch.tensor([1, 3, 0.1, 2, 1]) + 2
    return x, x + 0.3 * torch.randn(TOKENS, D, generator=generator, dtype=dtype)


def by_numpy(x: Tensor, x_hat: Tensor) -> float:
    a, b = x.numpy().astype(np.longdouble), x_hat.numpy().astype(np.longdouble)
    return float(((a - b) ** 2).sum() / ((a - a.mean(0)) ** 2).sum())


def test_fvu_is_its_definition() -> None:
    x, x_hat = tokens()
    assert fvu(x, x_hat) == pytest.approx(by_numpy(x, x_hat), rel=1e-12)
    assert 0.01 < fvu(x, x_hat) < 0.5
    assert fvu(x, x) == 0
    assert fvu(x, x.mean(0).expand_as(x)) == pytest.approx(1, rel=1e-12)
    assert fvu(x, torch.zeros_like(x)) > 1


def test_fvu_is_invariant_to_shift_scale_and_rotation() -> None:
    x, x_hat = tokens()
    value = fvu(x, x_hat)
    shift = torch.tensor([3.0, -50, 0, 7, 1]).double()
    rotation = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1)).double())[0]
    assert fvu(x + shift, x_hat + shift) == pytest.approx(value, rel=1e-11)
    assert fvu(-1e3 * x, -1e3 * x_hat) == pytest.approx(value, rel=1e-12)
    assert fvu(x @ rotation, x_hat @ rotation) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("cuts", [[1] * TOKENS, [96, 1], [1, 96], [50, 0, 47], [0, 97]], ids=lambda cuts: str(cuts[:3]))
def test_fvu_does_not_depend_on_batches(cuts: list[int]) -> None:
    x, x_hat = tokens()
    meter = FvuMeter()
    for a, b in zip(x.split(cuts), x_hat.split(cuts), strict=True):
        meter.update(a, b)
    assert meter.tokens == TOKENS
    assert meter.result() == pytest.approx(by_numpy(x, x_hat), rel=1e-12)


def test_fvu_with_a_huge_mean_keeps_its_digits() -> None:
    """Mean 10⁷ times the spread: Σx² − (Σx)²/n in float64 would keep two digits."""
    x, x_hat = tokens()
    for shift in (1e6, 1e7):
        moved, moved_hat = x + shift, x_hat + shift
        meter = FvuMeter()
        for a, b in zip(moved.split([1, 30, 66]), moved_hat.split([1, 30, 66]), strict=True):
            meter.update(a, b)
        assert meter.result() == pytest.approx(by_numpy(moved, moved_hat), rel=1e-9)
        assert meter.result() == pytest.approx(by_numpy(x, x_hat), rel=1e-6)


def test_fvu_with_one_sink_first() -> None:
    """A first token 10⁵ away from the others, as attention sinks are, spoils no digits of the others' batch order."""
    x, x_hat = tokens()
    x[0] += 1e5
    first, last = FvuMeter(), FvuMeter()
    for meter, order in ((first, range(TOKENS)), (last, reversed(range(TOKENS)))):
        for i in order:
            meter.update(x[i : i + 1], x_hat[i : i + 1])
    assert first.result() == pytest.approx(last.result(), rel=1e-12)
    assert first.result() == pytest.approx(by_numpy(x, x_hat), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fvu_of_low_precision_is_added_up_in_float64(dtype: torch.dtype) -> None:
    x, x_hat = (part.to(dtype) for part in tokens())
    assert fvu(x, x_hat) == pytest.approx(by_numpy(x.double(), x_hat.double()), rel=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e7 / 3, -5e-9])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_fvu_of_what_does_not_vary_is_nan(value: float, rows: int) -> None:
    x = torch.full((rows, D), value)
    assert math.isnan(fvu(x, torch.ones_like(x)))
    meter = FvuMeter()
    for row in x:
        meter.update(row[None], torch.ones(1, D))
    assert math.isnan(meter.result())
    assert math.isnan(FvuMeter().result())


def test_fvu_needs_no_gradient() -> None:
    x, x_hat = tokens()
    assert fvu(x.requires_grad_(), x_hat.requires_grad_()) == pytest.approx(by_numpy(x.detach(), x_hat.detach()))


def test_activity_against_brute_force() -> None:
    active = torch.rand(TOKENS, 11, generator=torch.Generator().manual_seed(2)) < 0.2
    active[:, [4, 10]] = False
    meter = ActivityMeter(11)
    for part in active.split([1, 0, 60, 36]):
        meter.update(part.nonzero()[:, 1], len(part))
    assert meter.tokens == TOKENS and torch.equal(meter.firings, active.sum(0))
    assert meter.l0() == pytest.approx(float(active.sum(1).double().mean()), rel=1e-14)
    assert meter.dead_fraction() == pytest.approx(2 / 11)
    assert torch.allclose(meter.density(), active.double().mean(0))
    empty = ActivityMeter(11)
    assert empty.l0() == 0 and empty.dead_fraction() == 1 and float(empty.density().sum()) == 0


def test_activity_of_another_dictionary_is_an_error() -> None:
    with pytest.raises((RuntimeError, ValueError)):
        ActivityMeter(11).update(torch.tensor([11]), 1)


def test_counts_against_brute_force() -> None:
    active = torch.rand(TOKENS, 11, generator=torch.Generator().manual_seed(3)) < 0.3
    counts = active.sum(1)
    meter = CountMeter()
    assert meter.quantile(0.5) == 0
    for part in counts.split([1, 0, 60, 36]):
        meter.update(part)
    assert meter.counts.tolist() == [int((counts == n).sum()) for n in range(int(counts.max()) + 1)]
    ordered = sorted(counts.tolist())
    for share in (0.05, 0.25, 0.5, 0.95, 1.0):
        assert meter.quantile(share) == ordered[math.ceil(share * TOKENS) - 1]


@pytest.mark.parametrize("cuts", [[TOKENS], [1, 0, 60, 36]])
def test_fidelity_against_brute_force(cuts: list[int]) -> None:
    x, x_hat = tokens(dtype=torch.float32)
    x[5], x_hat[7] = 0, 0
    meter = FidelityMeter()
    assert math.isnan(meter.relative_bias()) and math.isnan(meter.mean("cosine"))
    for a, b in zip(x.split(cuts), x_hat.split(cuts), strict=True):
        meter.update(a, b)
    a, b = x.numpy().astype(float), x_hat.numpy().astype(float)
    lengths = np.sqrt((a * a).sum(1)), np.sqrt((b * b).sum(1))
    cosines = [0.0 if i in (5, 7) else a[i] @ b[i] / lengths[0][i] / lengths[1][i] for i in range(TOKENS)]
    ratios = [0.0 if i == 5 else lengths[1][i] / lengths[0][i] for i in range(TOKENS)]
    assert meter.mean("cosine") == pytest.approx(np.mean(cosines), rel=1e-12)
    assert meter.mean("ratio") == pytest.approx(np.mean(ratios), rel=1e-12)
    assert meter.mean("norm") == pytest.approx(lengths[0].mean(), rel=1e-12)
    assert meter.mean("norm_hat") == pytest.approx(lengths[1].mean(), rel=1e-12)
    assert meter.mean("error") == pytest.approx(((a - b) ** 2).sum(1).mean(), rel=1e-12)
    assert meter.relative_bias() == pytest.approx((b * b).sum() / (a * b).sum(), rel=1e-12)


def test_relative_bias_is_the_shrinkage_of_what_points_the_right_way() -> None:
    x, _ = tokens()
    for factor in (0.7, 1.0, 1.3):
        meter = FidelityMeter()
        meter.update(x, factor * x)
        assert meter.relative_bias() == pytest.approx(factor, rel=1e-12)
        assert meter.mean("cosine") == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("chunk", [3, 1024])
def test_nearest_cosines_against_brute_force(chunk: int) -> None:
    rows = torch.randn(13, D, generator=torch.Generator().manual_seed(4)).double() * torch.arange(1, 14)[:, None]
    rows[4], rows[9], rows[11] = 0, -2 * rows[2], 0.5 * rows[2]
    found = nearest_cosines(rows, chunk)
    for i in range(13):
        others = [
            float(rows[i] @ rows[j] / (rows[i].norm() * rows[j].norm())) if i != 4 and j != 4 else 0.0
            for j in range(13)
            if j != i
        ]
        assert float(found[i]) == pytest.approx(max(others), abs=1e-12)
    assert float(found[2]) == pytest.approx(1) and float(found[4]) == 0
    with pytest.raises(ValueError, match="1 rows; expected at least two"):
        nearest_cosines(rows[:1])


def test_mean_meter() -> None:
    values = tokens(dtype=torch.float32)[0].view(-1) * 1e4
    meter = MeanMeter()
    assert math.isnan(meter.result())
    for part in values.split([1, 400, 0, 84]):
        meter.update(part)
    assert meter.count == 485 and meter.result() == pytest.approx(math.fsum(values.tolist()) / 485, rel=1e-13)


@pytest.mark.parametrize(
    ("clean", "spliced", "ablated", "expected"),
    [(3, 3, 11, 1), (3, 11, 11, 0), (3, 5, 11, 0.75), (3, 19, 11, -1), (3, 1, 11, 1.25)],
)
def test_ce_recovered(clean: float, spliced: float, ablated: float, expected: float) -> None:
    assert ce_recovered(float(clean), float(spliced), float(ablated)) == pytest.approx(expected)


def test_ce_recovered_when_ablating_costs_nothing() -> None:
    assert math.isnan(ce_recovered(3.0, 3.5, 3.0))
