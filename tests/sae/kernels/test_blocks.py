"""Selection from tiles wider than a block of 64 entries, in rows that share out unevenly over threads."""

import pytest
import torch
from torch import Tensor

import matryo.sae.kernels.tiled as tiled
from matryo.sae.kernels import Entries, Watch, select_above, select_batch_topk, select_row_topk

N = 150
"""Latents: two blocks and a rest."""
ROWS = 147
"""Of four threads the third begins at row 73, which is not twice 147 // 4."""


@pytest.fixture(params=[N, 65], autouse=True, ids=lambda width: f"tile{width}")
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "TILE_VALUES", request.param * ROWS)


@pytest.fixture(params=[1, 4], autouse=True, ids=["1 thread", "4 threads"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "threads", lambda: request.param)


def chosen(entries: Entries) -> list[tuple[int, int]]:
    assert entries.row_start[-1] == len(entries.latent)
    return list(zip(entries.row.tolist(), entries.latent.tolist(), strict=True))


@pytest.mark.parametrize("k", [1, 2])
def test_the_only_entry_of_a_row_is_found_wherever_in_a_block_it_lies(k: int) -> None:
    x, W, b = torch.eye(ROWS, N), torch.eye(N).t(), torch.zeros(N)
    diagonal = [(row, row) for row in range(ROWS)]
    assert chosen(select_above(x, W, b, 0.5)) == diagonal
    assert chosen(select_row_topk(x, W, b, k)) == diagonal
    assert chosen(select_batch_topk(x, W, b, ROWS)) == diagonal


def test_the_best_entry_of_a_row_is_found_after_its_heap_is_full() -> None:
    """Two low entries fill a row's heap of two before the best, and a middling one later is better than the lowest."""
    x = torch.zeros(ROWS, N)
    x[:, :2] = torch.tensor([2.0, 1.0])
    places = torch.arange(ROWS) % (N - 4) + 2
    x[torch.arange(ROWS), places] = 4.0
    x[:, N - 1] = 3.0
    found = select_row_topk(x, torch.eye(N).t(), torch.zeros(N), 2)
    assert chosen(found) == [pair for row, place in enumerate(places.tolist()) for pair in ((row, place), (row, N - 1))]


def test_entries_are_those_of_the_dense_matrix() -> None:
    g = torch.Generator().manual_seed(0)
    x, rows, b = (torch.randn(*size, generator=g).double() for size in ((ROWS, 6), (N, 6), (N,)))
    pre = x @ rows.t() + b
    ranks = pre.argsort(1, descending=True).argsort(1)
    best = pre.flatten().sort(descending=True).values[4 * ROWS - 1]
    watch = Watch.of(torch.arange(N) % 3 == 0, x)
    watch.pre.fill_(torch.nan)
    for found, wanted in (
        (select_above(x, rows.t(), b, 1.0, watch), pre > 1),
        (select_row_topk(x, rows.t(), b, 3), (ranks < 3) & (pre > 0)),
        (select_batch_topk(x, rows.t(), b, 4 * ROWS, float(best) * 1.5), pre >= best),
    ):
        assert chosen(found) == _pairs(wanted)
        torch.testing.assert_close(found.value, pre[found.row, found.latent], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(watch.pre, pre[:, ::3], rtol=1e-12, atol=1e-12)


def _pairs(mask: Tensor) -> list[tuple[int, int]]:
    return [tuple(pair) for pair in mask.nonzero().tolist()]
