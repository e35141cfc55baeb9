"""Selection on a CPU: the tiles of the encoder product come from PyTorch, compiled loops read them.

The same results as `matryo.sae.kernels.select`, whose plain operations are the reference.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matryo.sae.kernels.compiled import scan, threads
from matryo.sae.kernels.entries import Entries
from matryo.sae.kernels.hint import first_bound
from matryo.sae.kernels.scratch import scratch
from matryo.sae.kernels.watch import Watch

TILE_VALUES = 2_097_152
"""Entries of a tile, 8 MiB in float32: 512 columns of a batch of 4,096. Column tiles run at the full speed of the
whole product, and what is read back at once is still in the cache."""

LEAST_ROOM = 64
"""Candidates a thread's list has room for at first, at least."""


def read_tiles(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in n_latents"],
    b: Float[Tensor, "n_latents"],
    watch: Watch | None = None,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first column, x @ W of some columns, their b); the tile's memory is used again for the next one."""
    x, rows, bias = x.detach(), W.detach().t().contiguous(), b.detach().numpy()
    n = len(rows)
    width = min(n, max(1, TILE_VALUES // max(len(x), 1)))
    for start in range(0, n, width):
        stop = min(start + width, n)
        tile = scratch("tile", (len(x), stop - start), x.dtype)
        pre = torch.mm(x, rows[start:stop].t(), out=tile).numpy()
        if watch is not None:
            place, column = watch.within(start, stop)
            if len(column):
                scan.copy_columns(pre, bias[start:stop], column.numpy(), watch.pre.numpy(), place, threads())
        yield start, pre, bias[start:stop]


class _Lists:
    """Candidates of every thread, with room for about `room` in all; a list grows when a tile holds more."""

    def __init__(self, batch: int, room: int, like: np.dtype) -> None:
        self.batch = batch
        self.count = np.zeros(threads(), np.int64)
        self._make(max(room // len(self.count), LEAST_ROOM), like)

    def __len__(self) -> int:
        return int(self.count.sum())

    def read(self, pre: np.ndarray, bias: np.ndarray, cut: np.ndarray, first: int) -> None:
        """Take the entries of a tile that are strictly above the cut."""
        before = self.count.copy()
        scan.keep_above(pre, bias, cut, first, self.value, self.row, self.latent, self.count)
        room = self.value.shape[1]
        if (most := int(self.count.max(initial=0))) > room:
            self.count[:] = before
            self._grow(max(most + most // 8, 3 * room // 2))
            scan.keep_above(pre, bias, cut, first, self.value, self.row, self.latent, self.count)

    def _make(self, room: int, like: np.dtype) -> None:
        shape = (len(self.count), room)
        dtype = torch.from_numpy(np.empty(0, like)).dtype
        self.value = scratch("candidates", shape, dtype).numpy()
        self.row, self.latent = (scratch(name, shape, torch.int32).numpy() for name in ("rows", "latents"))

    def _grow(self, room: int) -> None:
        old = [part.copy() for part in (self.value, self.row, self.latent)]
        self._make(room, self.value.dtype)
        for new, kept in zip((self.value, self.row, self.latent), old, strict=True):
            for part, count in enumerate(self.count):
                new[part, :count] = kept[part, :count]

    def keep_largest(self, wanted: int) -> float:
        """Drop all but the `wanted` largest; the smallest one left is returned."""
        everything = np.concatenate([line[:count] for line, count in zip(self.value, self.count, strict=True)])
        limit = np.partition(everything, len(everything) - wanted)[len(everything) - wanted]
        above, equal = np.zeros_like(self.count), np.zeros_like(self.count)
        scan.count_against(self.value, self.count, limit, above, equal)
        # Of equal values the first ones stay.
        ties = np.diff(np.minimum(np.cumsum(equal), wanted - above.sum()), prepend=0)
        scan.drop_below(self.value, self.row, self.latent, self.count, limit, ties)
        return float(limit)

    def entries(self, n_latents: int) -> Entries:
        """The candidates in compressed rows."""
        row_start = np.zeros(self.batch + 1, np.int64)
        scan.count_rows(self.row, self.count, row_start[1:])
        np.cumsum(row_start, out=row_start)
        latent, value = np.empty(len(self), np.int64), np.empty(len(self), self.value.dtype)
        scan.fill_rows(self.value, self.row, self.latent, self.count, row_start, latent, value)
        return Entries(torch.from_numpy(row_start), torch.from_numpy(latent), torch.from_numpy(value), n_latents)


def above(x: Tensor, W: Tensor, b: Tensor, threshold: float | Tensor, watch: Watch | None = None) -> Entries:
    """`select_above`."""
    n = W.shape[1]
    limit = threshold.detach().to(x.dtype) if isinstance(threshold, Tensor) else x.new_full((n,), threshold)
    cut = limit.contiguous().numpy()
    lists = _Lists(len(x), len(x) * 64, cut.dtype)
    for first, pre, bias in read_tiles(x, W, b, watch):
        lists.read(pre, bias, cut[first : first + len(bias)], first)
    return lists.entries(n)


def batch_topk(
    x: Tensor, W: Tensor, b: Tensor, count: int, hint: float | None = None, watch: Watch | None = None
) -> Entries:
    """`select_batch_topk`."""
    start = first_bound(hint)
    lists, _ = _running(x, W, b, count, start, watch)
    if len(lists) < count and start > 0:
        lists, _ = _running(x, W, b, count, 0.0, None)
    if len(lists) > count:
        lists.keep_largest(count)
    return lists.entries(W.shape[1])


def candidates(x: Tensor, W: Tensor, b: Tensor, count: int, start: float, watch: Watch | None) -> tuple[Entries, float]:
    """Every entry above some threshold, at least `start`, and that threshold: the `count` largest are among them."""
    lists, threshold = _running(x, W, b, count, start, watch)
    return lists.entries(W.shape[1]), threshold


def _running(
    x: Tensor, W: Tensor, b: Tensor, count: int, threshold: float, watch: Watch | None
) -> tuple[_Lists, float]:
    """Candidates above a threshold that rises to the count-th largest seen whenever too many have gathered.

    Exact: a value below the count-th largest of some columns cannot be among the count largest of all.
    """
    lists = _Lists(len(x), count + count // 4, b.detach().numpy().dtype)
    for first, pre, bias in read_tiles(x, W, b, watch):
        lists.read(pre, bias, np.full_like(bias, threshold), first)
        if len(lists) > 2 * count + len(bias):
            smallest = bias.dtype.type(lists.keep_largest(count))
            # Equal values stay candidates: the largest number below the smallest kept one is the new bound.
            threshold = float(np.nextafter(smallest, bias.dtype.type(0)))
    return lists, threshold


def row_topk(x: Tensor, W: Tensor, b: Tensor, k: int, hint: float | None = None, watch: Watch | None = None) -> Entries:
    """`select_row_topk`."""
    n = W.shape[1]
    k = min(k, n)
    start = first_bound(hint)
    value, latent, size = _heaps(x, W, b, k, start, watch)
    if start and len(short := np.flatnonzero(size < k)):
        # These rows have fewer than k above the guess: once more, from 0.
        again = _heaps(x.detach()[torch.from_numpy(short)], W, b, k, 0.0, None)
        value[short], latent[short], size[short] = again
    row_start = np.concatenate([np.zeros(1, np.int64), np.cumsum(size)])
    out_latent, out_value = np.empty(row_start[-1], np.int64), np.empty(row_start[-1], value.dtype)
    scan.fill_from_heaps(value, latent, size, row_start, out_latent, out_value, threads())
    return Entries(torch.from_numpy(row_start), torch.from_numpy(out_latent), torch.from_numpy(out_value), n)


def _heaps(
    x: Tensor, W: Tensor, b: Tensor, k: int, start: float, watch: Watch | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every row's k largest above `start`, as a min-heap once there are k: values, latents (batch, k), how many."""
    batch, dtype = len(x), b.detach().numpy().dtype
    value, latent, size = np.empty((batch, k), dtype), np.empty((batch, k), np.int64), np.zeros(batch, np.int64)
    for first, pre, bias in read_tiles(x, W, b, watch):
        scan.keep_row_largest(pre, bias, first, dtype.type(start), value, latent, size, threads())
    return value, latent, size
