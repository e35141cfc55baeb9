"""The second half of an index: latent → tokens, the strongest first, and what that order makes cheap to count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.sae.dashboard.index import arrays

BINS = 50
"""Equal intervals of (0, largest activation] that a latent's histogram counts."""

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

RANGE_ENTRIES = 4 * 2**20
"""Entries sorted at a time: about 60 bytes each while they are."""


@dataclass(frozen=True)
class Counted:
    """One number for each latent."""

    firings: NDArray[np.int64]
    largest: NDArray[np.float32]
    mean: NDArray[np.float32]
    "Over the tokens on which it is active."
    quantiles: NDArray[np.float32]
    "(n_latents, len(QUANTILES)), of its activations on those tokens."
    top_token: NDArray[np.int32]
    "The token id on which it is active most often, the smallest of several; −1 where it never is."
    top_share: NDArray[np.float32]
    "Share of its firings on that token id."
    entropy: NDArray[np.float32]
    "Of the token ids it is active on, in bits: −Σ p log₂ p."
    histogram: NDArray[np.uint32]
    "(n_latents, BINS)."


def invert(folder: Path, n_latents: int, token_ids: NDArray[np.int32]) -> Counted:
    """Write `inv_start.npy`, `inv_token.npy` and `inv_act.npy`, and count.

    Within a latent, tokens go from the largest activation to the smallest, equal ones by their number.

    Args:
        folder: of one SAE, with the recorder's files.
        n_latents: how many latents it has.
        token_ids: the id of every token of the text, in order.
    """
    counts, latent, act = (arrays.flat(folder, kind) for kind in ("count", "latent", "act"))
    arrays.save(folder / "fwd_start.npy", arrays.starts(counts))
    token = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
    firings = np.bincount(latent, minlength=n_latents).astype(np.int64)
    start = arrays.starts(firings)
    arrays.save(folder / "inv_start.npy", start)
    held: list[Any] = [
        np.lib.format.open_memmap(folder / f".{name}.partial.npy", "w+", dtype, (len(latent),))
        if len(latent)
        else np.zeros(0, dtype)
        for name, dtype in (("inv_token", np.uint32), ("inv_act", np.float32))
    ]
    found = _nothing(firings)
    for low, high in _ranges(start):
        inside = np.flatnonzero((latent >= low) & (latent < high)) if (low, high) != (0, n_latents) else slice(None)
        own, value, where = latent[inside], act[inside], token[inside]
        order = arrays.stable_order(own, ~value.view(np.uint32))  # positive floats sort as their bits do
        part = slice(int(start[low]), int(start[high]))
        held[0][part], held[1][part] = where[order], value[order]
        _count(found, held[1][part], token_ids[held[0][part]], start[low : high + 1], low)
    for name, array in zip(("inv_token", "inv_act"), held, strict=True):
        if isinstance(array, np.memmap):
            array.flush()
            (folder / f".{name}.partial.npy").replace(folder / f"{name}.npy")
        else:
            arrays.save(folder / f"{name}.npy", array)
    return found


def _nothing(firings: NDArray[np.int64]) -> Counted:
    n = len(firings)
    return Counted(
        firings=firings,
        largest=np.zeros(n, np.float32),
        mean=np.zeros(n, np.float32),
        quantiles=np.zeros((n, len(QUANTILES)), np.float32),
        top_token=np.full(n, -1, np.int32),
        top_share=np.zeros(n, np.float32),
        entropy=np.zeros(n, np.float32),
        histogram=np.zeros((n, BINS), np.uint32),
    )


def _ranges(start: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Neighbouring latents whose entries are few enough to sort at once; at least one latent each."""
    low, n = 0, len(start) - 1
    while low < n:
        high = int(np.searchsorted(start, start[low] + RANGE_ENTRIES, "right")) - 1
        high = min(n, max(low + 1, high))
        yield low, high
        low = high


def _count(found: Counted, act: NDArray, ids: NDArray, start: NDArray[np.int64], low: int) -> None:
    """Fill the numbers of the latents low, low + 1, …, whose activations `act` are sorted within each."""
    start = start - start[0]
    alive = np.flatnonzero(np.diff(start))
    if not len(alive):
        return
    first, count, rows = start[alive], np.diff(start)[alive], low + alive
    found.largest[rows] = act[first]
    found.mean[rows] = np.add.reduceat(act.astype(np.float64), first) / count
    for column, quantile in enumerate(QUANTILES):
        found.quantiles[rows, column] = act[first + quantile_place(count, quantile)]
    member = np.repeat(np.arange(len(alive)), count)
    slot = np.minimum(BINS - 1, (act / act[first][member] * BINS).astype(np.int64))
    found.histogram[rows] = np.bincount(member * BINS + slot, minlength=len(alive) * BINS).reshape(-1, BINS)
    key = np.sort((member << 32) | ids.astype(np.int64))
    edge = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    often, whose, which = np.diff(np.r_[edge, len(key)]), key[edge] >> 32, (key[edge] & 0xFFFFFFFF).astype(np.int32)
    opens = np.flatnonzero(np.r_[True, whose[1:] != whose[:-1]])
    most = np.maximum.reduceat(often, opens)
    is_most = np.flatnonzero(often == most[whose])
    chosen = is_most[np.r_[True, whose[is_most][1:] != whose[is_most][:-1]]]
    share = often / count[whose]
    found.top_token[rows], found.top_share[rows] = which[chosen], share[chosen]
    found.entropy[rows] = np.abs(np.add.reduceat(share * np.log2(share), opens))


def quantile_place(count: NDArray[np.int64], quantile: float) -> NDArray[np.int64]:
    """Where in a descending list of `count` values the quantile stands: ⌊(1 − q)(count − 1) + ½⌋."""
    return np.floor((1 - quantile) * (count - 1) + 0.5).astype(np.int64)
