"""Selection against brute force on the dense matrix, in one tile and in several, by plain operations and compiled."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import matryo.sae.kernels.select as select
import matryo.sae.kernels.tiled as tiled
from matryo.sae.kernels import Entries, Watch, select_above, select_batch_topk, select_row_topk, use

BATCH, D_IN, N_LATENTS = 19, 6, 45


@pytest.fixture(params=["torch", "auto"], autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with use(request.param):
        yield request.param


@pytest.fixture(params=[512, 45, 8, 1], ids=lambda width: f"tile{width}", autouse=True)
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """45 = 5 tiles of 8 and one of 5; one exact tile; one tile that is not full; one column at a time."""
    monkeypatch.setattr(select, "TILE", request.param)
    monkeypatch.setattr(tiled, "TILE_VALUES", request.param * BATCH)
    return request.param


def problem(whole: bool = False, seed: int = 0, shift: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, W, b and the dense pre-activations; of small whole numbers, exact and full of ties, when asked."""
    generator = torch.Generator().manual_seed(seed)
    if whole:
        x, rows, b = (
            torch.randint(-2, 3, size, generator=generator).double()
            for size in ((BATCH, D_IN), (N_LATENTS, D_IN), (45,))
        )
    else:
        x, rows, b = (
            torch.randn(size, generator=generator, dtype=torch.float64)
            for size in ((BATCH, D_IN), (N_LATENTS, D_IN), (45,))
        )
    b = b + shift
    return x, rows.t(), b, x @ rows.t() + b


def check_form(entries: Entries, pre: Tensor) -> None:
    """Rows and latents ascend, each entry occurs once and holds its pre-activation."""
    assert entries.n_rows == len(pre) and entries.n_latents == pre.shape[1]
    assert entries.row_start[0] == 0 and entries.row_start[-1] == len(entries.value)
    key = entries.row * entries.n_latents + entries.latent
    assert bool((key.diff() > 0).all())
    assert torch.allclose(entries.value, pre[entries.row, entries.latent], rtol=1e-12, atol=1e-12)


def mask(entries: Entries) -> Tensor:
    out = torch.zeros(entries.n_rows, entries.n_latents, dtype=torch.bool)
    out[entries.row, entries.latent] = True
    return out


HINTS = [None, 0.0, "exact", "low", "high", "absurd", -1.0, math.inf, math.nan]


@pytest.mark.parametrize("hint", HINTS, ids=str)
@pytest.mark.parametrize("count", [1, 7, BATCH * 5, 10_000])
@pytest.mark.parametrize("whole", [False, True], ids=["distinct", "ties"])
def test_batch_topk(count: int, hint: float | str | None, whole: bool) -> None:
    x, W, b, pre = problem(whole)
    best = pre[pre > 0].sort(descending=True).values[:count]
    factor = {"exact": 1.0, "low": 0.3, "high": 1.3, "absurd": 1e6}.get(str(hint))
    found = select_batch_topk(x, W, b, count, float(best[-1]) * factor if factor else hint)  # type: ignore[arg-type]
    check_form(found, pre)
    assert torch.allclose(found.value.sort(descending=True).values, best, rtol=1e-12), "not the largest ones"
    if not whole:
        assert torch.equal(mask(found), pre >= best[-1])


def test_batch_topk_when_every_value_is_equal() -> None:
    x, W, b = torch.ones(BATCH, D_IN), torch.ones(N_LATENTS, D_IN).t(), torch.zeros(N_LATENTS)
    for count in (1, 50, BATCH * N_LATENTS - 1, BATCH * N_LATENTS):
        found = select_batch_topk(x, W, b, count, hint=float(D_IN))
        check_form(found, torch.full((BATCH, N_LATENTS), float(D_IN)))
        assert len(found.value) == count


@pytest.mark.parametrize("k", [1, 4, 9, 45, 60])
@pytest.mark.parametrize("shift", [0.0, -3.0], ids=["many", "few"])
@pytest.mark.parametrize("whole", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("hint", HINTS, ids=str)
def test_row_topk(k: int, shift: float, whole: bool, hint: float | str | None) -> None:
    x, W, b, pre = problem(whole, shift=shift)
    if isinstance(hint, str):
        smallest = pre.topk(min(k, N_LATENTS), dim=1).values.clamp_min(0.1).min()
        hint = float(smallest) * {"exact": 1.0, "low": 0.3, "high": 1.3, "absurd": 1e6}[hint]
    found = select_row_topk(x, W, b, k, hint)
    check_form(found, pre)
    for row in range(BATCH):
        best = pre[row][pre[row] > 0].sort(descending=True).values[:k]
        mine = found.value[found.row_start[row] : found.row_start[row + 1]]
        assert torch.allclose(mine.sort(descending=True).values, best, rtol=1e-12)
    if not whole:
        ranks = pre.argsort(1, descending=True).argsort(1)
        assert torch.equal(mask(found), (ranks < k) & (pre > 0))


@pytest.mark.parametrize("threshold", [0.0, 1.0, -2.0, 1e9, -1e9, "each"])
def test_above(threshold: float | str) -> None:
    x, W, b, pre = problem(whole=True)
    limit = torch.linspace(-3, 4, N_LATENTS, dtype=torch.float64).round() if threshold == "each" else threshold
    found = select_above(x, W, b, limit)  # type: ignore[arg-type]
    check_form(found, pre)
    assert torch.equal(mask(found), pre > limit), "strictly above, whole numbers"


def test_a_row_and_a_latent_without_entries() -> None:
    x, W, b, _ = problem()
    x[4], b[:] = 0.0, 0.0
    W[:, 7] = 0.0
    pre = x @ W
    for found in (select_above(x, W, b, 0.0), select_row_topk(x, W, b, 5), select_batch_topk(x, W, b, 95)):
        check_form(found, pre)
        assert found.row_start[4] == found.row_start[5] and not mask(found)[:, 7].any()


def test_nothing_positive_and_no_rows() -> None:
    x, W, b, _ = problem(shift=-1e6)
    for rows in (x, x[:0]):
        for found in (
            select_above(rows, W, b, 0.0),
            select_row_topk(rows, W, b, 5),
            select_batch_topk(rows, W, b, 95, 0.7),
        ):
            check_form(found, rows @ W + b)
            assert len(found.value) == 0 and found.l0 == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    x, W, b, _ = problem(whole=True)  # whole numbers up to 26: exact in every dtype, with many ties
    x, W, b = x.to(dtype), W.to(dtype), b.to(dtype)
    pre = x.double() @ W.double() + b.double()
    best = pre[pre > 0].sort(descending=True).values
    found = select_batch_topk(x, W, b, 60, float(best[59]))
    assert found.value.dtype == dtype and torch.equal(found.value.double().sort(descending=True).values, best[:60])
    rows = select_row_topk(x, W, b, 3)
    assert torch.equal(mask(select_above(x, W, b, 2.0)), pre > 2)
    assert torch.equal(rows.value.double(), pre[rows.row, rows.latent])


def test_weights_in_any_memory_order_and_a_caller_that_needs_gradients() -> None:
    x, W, b, pre = problem()
    for weights in (W, W.contiguous(), W.clone().requires_grad_()):
        found = select_batch_topk(x, weights, b.clone().requires_grad_(), 40)
        check_form(found, pre)
        assert not found.value.requires_grad


@pytest.mark.parametrize("wanted", [[], [0], [7, 8, 9, 44], list(range(N_LATENTS))], ids=len)
def test_watched_columns_are_handed_on(wanted: list[int]) -> None:
    x, W, b, pre = problem()
    for select_with in (
        lambda watch: select_above(x, W, b, 0.5, watch),
        lambda watch: select_row_topk(x, W, b, 3, watch=watch),
        lambda watch: select_batch_topk(x, W, b, 40, None, watch),
        lambda watch: select_batch_topk(x, W, b, 40, 1e9, watch),
    ):
        watch = Watch.of(torch.isin(torch.arange(N_LATENTS), torch.tensor(wanted)), x)
        watch.pre.fill_(math.nan)
        select_with(watch)
        assert watch.pre.shape == (BATCH, len(wanted)) and torch.allclose(watch.pre, pre[:, wanted], rtol=1e-12)


def test_lists_grow_and_threads_share_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three threads, lists far too short: the same entries."""
    monkeypatch.setattr(tiled, "threads", lambda: 3)
    monkeypatch.setattr(tiled, "LEAST_ROOM", 1)
    monkeypatch.setattr(tiled, "_Lists", ShortLists)
    x, W, b, pre = problem()
    best = pre[pre > 0].sort(descending=True).values[:95]
    check_form(found := select_batch_topk(x, W, b, 95), pre)
    assert torch.equal(mask(found), pre >= best[-1])
    check_form(found := select_above(x, W, b, -1.0), pre)
    assert torch.equal(mask(found), pre > -1)
    check_form(found := select_row_topk(x, W, b, 4), pre)
    assert torch.equal(mask(found), (pre.argsort(1, descending=True).argsort(1) < 4) & (pre > 0))


class ShortLists(tiled._Lists):
    def __init__(self, batch: int, room: int, like: np.dtype) -> None:
        super().__init__(batch, 2, like)


def test_entries() -> None:
    _, _, _, pre = problem()
    chosen = (pre > 1).nonzero()[torch.randperm(int((pre > 1).sum()), generator=torch.Generator().manual_seed(1))]
    row, latent = chosen.unbind(1)
    entries = Entries.from_pairs(row, latent, pre[row, latent], BATCH, N_LATENTS)
    check_form(entries, pre)
    assert torch.equal(entries.dense(), torch.where(pre > 1, pre, 0.0))
    assert entries.l0 == float((pre > 1).sum(1).double().mean())
    order, start = entries.by_latent
    for j in range(N_LATENTS):
        mine = order[start[j] : start[j + 1]]
        assert torch.equal(entries.row[mine], (pre[:, j] > 1).nonzero().view(-1)) and bool(
            (entries.latent[mine] == j).all()
        )
    for level in (1, 20, N_LATENTS):
        assert torch.equal(entries.prefix(level).dense(), entries.dense()[:, :level])
    value = torch.arange(len(row), dtype=torch.float64).requires_grad_()
    other = entries.with_value(value)
    assert not other.value.requires_grad and torch.equal(other.latent, entries.latent)
    assert other.l0 == (len(row) - 1) / BATCH, "an entry of value 0 is not active"


def test_a_latent_whose_values_are_all_0_has_not_fired() -> None:
    """As entries in the window of a JumpReLU are that stay below its threshold."""
    row, latent = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 3, 3, 4])
    entries = Entries.from_pairs(row, latent, torch.tensor([0.0, 0.0, 2.0, -1.0]), 2, 6)
    assert entries.fired.nonzero().view(-1).tolist() == [3]
