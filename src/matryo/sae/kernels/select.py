"""Which latents are active: exact selection from the encoder product, computed in column tiles.

pre = x @ W + b with x (batch, d_in), W (d_in, n_latents), b (n_latents,). Only one tile of `TILE` columns exists at a
time; candidates above a running threshold are kept from each.

On a CPU the tiles are read by compiled loops (`matryo.sae.kernels.tiled`); the plain PyTorch operations below serve
every device and are the reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matryo.sae.kernels.counting import keep_largest, keep_row_largest, place_of
from matryo.sae.kernels.entries import Entries
from matryo.sae.kernels.hint import first_bound
from matryo.sae.kernels.mesh import ALONE, Group
from matryo.sae.kernels.switch import has_compiled
from matryo.sae.kernels.watch import Watch

TILE = 512
"""Columns per tile: tiles of 512 to 2,048 columns run at the full speed of the whole product, row tiles do not."""

Candidates = tuple[Int[Tensor, "_"], Int[Tensor, "_"], Float[Tensor, "_"]]
"""(row, latent, value) of some entries; three vectors of one length, which changes from function to function."""


def _tiles(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in n_latents"],
    b: Float[Tensor, "n_latents"],
    watch: Watch | None = None,
) -> Iterator[tuple[int, Float[Tensor, "batch tile"]]]:
    """(first column, pre-activations) of every tile; the tile's memory is reused for the next one."""
    n = W.shape[1]
    rows = W.t().contiguous()
    buffer = x.new_empty(x.shape[0] * min(TILE, n))
    for start in range(0, n, TILE):
        stop = min(start + TILE, n)
        out = buffer[: x.shape[0] * (stop - start)].view(x.shape[0], stop - start)
        torch.addmm(b[start:stop], x, rows[start:stop].t(), out=out)
        if watch is not None:
            place, column = watch.within(start, stop)
            watch.pre[:, place : place + len(column)] = out[:, column]
        yield start, out


def _above(tile: Float[Tensor, "batch tile"], threshold: float | Float[Tensor, "tile"], start: int) -> Candidates:
    """(row, latent, value) of the tile's entries strictly above the threshold."""
    width = tile.shape[1]
    index = (tile > threshold).view(-1).nonzero().view(-1)
    return index // width, index % width + start, tile.view(-1)[index]


def _join(parts: list[Candidates]) -> Candidates:
    row, latent, value = zip(*parts, strict=True)
    return torch.cat(row), torch.cat(latent), torch.cat(value)


def _keep_largest(candidates: Candidates, count: int) -> Candidates:
    top = torch.topk(candidates[2], count, sorted=False).indices
    return candidates[0][top], candidates[1][top], candidates[2][top]


@torch.no_grad()
def select_above(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in n_latents"],
    b: Float[Tensor, "n_latents"],
    threshold: float | Float[Tensor, "n_latents"],
    watch: Watch | None = None,
) -> Entries:
    """Entries with pre > threshold, one threshold for all latents or one for each."""
    if has_compiled(x):
        from matryo.sae.kernels import tiled

        return tiled.above(x, W, b, threshold, watch)
    parts = []
    for start, tile in _tiles(x, W, b, watch):
        here = threshold[start : start + tile.shape[1]] if isinstance(threshold, Tensor) else threshold
        parts.append(_above(tile, here, start))
    return Entries.from_pairs(*_join(parts), n_rows=x.shape[0], n_latents=W.shape[1])


@torch.no_grad()
def select_batch_topk(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in n_latents"],
    b: Float[Tensor, "n_latents"],
    count: int,
    hint: float | None = None,
    watch: Watch | None = None,
    group: Group = ALONE,
) -> Entries:
    """The `count` largest positive pre-activations of the whole batch (all positive ones when there are fewer).

    `hint` is a guess of the smallest selected value, such as the last batch's; the result does not depend on it, only
    the work does: too low costs memory for candidates, too high costs a second encoder product. Over a group whose
    processes hold other rows or columns the result is this process's part of the `count` largest of all.
    """
    threshold = first_bound(hint)
    if group.size > 1:
        return _batch_topk_of(group, x, W, b, count, threshold, watch)
    if has_compiled(x):
        from matryo.sae.kernels import tiled

        return tiled.batch_topk(x, W, b, count, hint, watch)
    found, _ = _scan_running(x, W, b, count, threshold, watch)
    if len(found[2]) < count and threshold > 0:
        found, _ = _scan_running(x, W, b, count, 0.0, None)
    if len(found[2]) > count:
        found = _keep_largest(found, count)
    return Entries.from_pairs(*found, n_rows=x.shape[0], n_latents=W.shape[1])


SHARE = 1.5
"""Candidates that a process of a group keeps at first, as a multiple of its even share of the wanted ones."""


def _batch_topk_of(
    group: Group, x: Tensor, W: Tensor, b: Tensor, count: int, threshold: float, watch: Watch | None
) -> Entries:
    """`select_batch_topk` over a group: everyone's candidates, the count-th largest by counting, and what is above it.

    Right if no process dropped a value above the count-th largest of those kept. That number is never above the true
    one: where a process may have dropped one, candidates above that number are gathered again.
    """
    wanted = min(count, math.ceil(SHARE * count / group.size))
    entries, bound = _candidates(x, W, b, wanted, threshold, watch)
    settled = place_of(entries.value, count, group)
    limit, found = settled.limit_and_total(entries.value, count)
    highest = float(group.max_(x.new_tensor(bound)))
    if highest >= limit if found >= count else highest > 0:
        below = 0.0 if found < count else float(torch.nextafter(x.new_tensor(limit), x.new_zeros(())))
        entries, _ = _candidates(x, W, b, count, below, None)
        settled = None
    return keep_largest(entries, count, group, settled)


def _candidates(
    x: Tensor, W: Tensor, b: Tensor, count: int, start: float, watch: Watch | None
) -> tuple[Entries, float]:
    """Every entry above some threshold, at least `start`, and that threshold: the `count` largest are among them."""
    if has_compiled(x):
        from matryo.sae.kernels import tiled

        return tiled.candidates(x, W, b, count, start, watch)
    found, threshold = _scan_running(x, W, b, count, start, watch)
    return Entries.from_pairs(*found, n_rows=x.shape[0], n_latents=W.shape[1]), threshold


def _scan_running(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in n_latents"],
    b: Float[Tensor, "n_latents"],
    count: int,
    threshold: float,
    watch: Watch | None,
) -> tuple[Candidates, float]:
    """Candidates above a threshold that rises to the count-th largest seen whenever too many have gathered.

    Exact: a value below the count-th largest of some columns cannot be among the count largest of all.
    """
    parts: list[Candidates] = []
    gathered = 0
    for start, tile in _tiles(x, W, b, watch):
        parts.append(_above(tile, threshold, start))
        gathered += len(parts[-1][2])
        if gathered > 2 * count + tile.shape[1]:
            parts = [_keep_largest(_join(parts), count)]
            gathered = count
            # Equal values stay candidates: the largest float below the smallest kept one is the new bound.
            smallest = parts[0][2].min()
            threshold = float(torch.nextafter(smallest, smallest.new_zeros(())))
    return _join(parts), threshold


@torch.no_grad()
def select_row_topk(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in n_latents"],
    b: Float[Tensor, "n_latents"],
    k: int,
    hint: float | None = None,
    watch: Watch | None = None,
    group: Group = ALONE,
) -> Entries:
    """The k largest positive pre-activations of every row (fewer where fewer are positive).

    Over a group whose processes hold other columns of the rows: this process's part of them. `hint`, the smallest value
    selected for the last batch, saves time where it is near the truth; the result does not depend on it.
    """
    if group.size > 1:
        return keep_row_largest(select_row_topk(x, W, b, k, watch=watch), k, group)
    if has_compiled(x):
        from matryo.sae.kernels import tiled

        return tiled.row_topk(x, W, b, k, hint, watch)
    values, latents = [], []
    for start, tile in _tiles(x, W, b, watch):
        top = torch.topk(tile, min(k, tile.shape[1]), dim=1, sorted=False)
        values.append(top.values)
        latents.append(top.indices + start)
    value, latent = torch.cat(values, 1), torch.cat(latents, 1)
    top = torch.topk(value, min(k, value.shape[1]), dim=1, sorted=False)
    latent = latent.gather(1, top.indices)
    row = torch.arange(x.shape[0], device=x.device)[:, None].expand_as(latent)
    keep = top.values > 0
    return Entries.from_pairs(row[keep], latent[keep], top.values[keep], x.shape[0], W.shape[1])
