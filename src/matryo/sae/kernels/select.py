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

from matryo.sae.kernels.entries import Entries
from matryo.sae.kernels.switch import has_compiled
from matryo.sae.kernels.watch import Watch

TILE = 512
"""Columns per tile: tiles of 512 to 2,048 columns run at the full speed of the whole product, row tiles do not."""

MARGIN = 0.97
"""A selection threshold drifts by less than this between steps; below it the exact fallback takes over."""

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
) -> Entries:
    """The `count` largest positive pre-activations of the whole batch (all positive ones when there are fewer).

    `hint` is a guess of the smallest selected value, such as the last batch's; the result does not depend on it, only
    the work does: too low costs memory for candidates, too high costs a second encoder product.
    """
    if has_compiled(x):
        from matryo.sae.kernels import tiled

        return tiled.batch_topk(x, W, b, count, hint, watch)
    threshold = max(0.0, MARGIN * hint) if hint and math.isfinite(hint) else 0.0
    found = _scan_running(x, W, b, count, threshold, watch)
    if len(found[2]) < count and threshold > 0:
        found = _scan_running(x, W, b, count, 0.0, None)
    if len(found[2]) > count:
        found = _keep_largest(found, count)
    return Entries.from_pairs(*found, n_rows=x.shape[0], n_latents=W.shape[1])


def _scan_running(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in n_latents"],
    b: Float[Tensor, "n_latents"],
    count: int,
    threshold: float,
    watch: Watch | None,
) -> Candidates:
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
    return _join(parts)


@torch.no_grad()
def select_row_topk(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in n_latents"],
    b: Float[Tensor, "n_latents"],
    k: int,
    watch: Watch | None = None,
) -> Entries:
    """The k largest positive pre-activations of every row (fewer where fewer are positive)."""
    if has_compiled(x):
        from matryo.sae.kernels import tiled

        return tiled.row_topk(x, W, b, k, watch)
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
