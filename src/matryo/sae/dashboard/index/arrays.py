"""Flat arrays of an index: written whole or not at all, read by memory map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matryo.sae.dashboard.index.record import FILES


def save(path: Path, array: NDArray) -> None:
    """Write one `.npy` file in one step."""
    partial = path.with_name(f".{path.stem}.partial.npy")
    np.save(partial, array, allow_pickle=False)
    partial.replace(path)


def load(path: Path) -> NDArray:
    """Map one `.npy` file.

    Raises:
        ValueError: it is missing, cut short or no array.
    """
    try:
        return np.load(path, "r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); make the index again") from error


def flat(folder: Path, kind: str) -> NDArray:
    """Map one of the recorder's files."""
    path, dtype = folder / f"{kind}.bin", FILES[kind]
    if not path.is_file() or path.stat().st_size % dtype.itemsize:
        raise ValueError(f"{path} is missing or damaged; make the index again")
    if not path.stat().st_size:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, "r")


def starts(counts: NDArray) -> NDArray[np.int64]:
    """Where each group begins in the concatenation of groups of these sizes, and where the last ends."""
    out = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=out[1:])
    return out


def stable_order(*keys: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The order that sorts by the first key, then the second, and so on; equal ones stay as they are.

    Least significant digit first, 16 bits at a time: NumPy sorts 16-bit numbers by radix, eight times faster than
    wider ones by comparison.

    Example:
        >>> stable_order(np.array([1, 0, 1], "u4"), np.array([5, 6, 4], "u4")).tolist()
        [1, 2, 0]
    """
    order = np.arange(len(keys[0]))
    for key in reversed(keys):
        for shift in (0, 16):
            digit = (key >> np.uint32(shift)).astype(np.uint16)
            if len(digit) and digit.min() != digit.max():
                order = order[np.argsort(digit[order], kind="stable")]
    return order


def gather(start: NDArray[np.int64], groups: NDArray) -> NDArray[np.int64]:
    """Positions of all members of some groups in their concatenation, group by group.

    Example:
        >>> gather(np.array([0, 2, 2, 5]), np.array([2, 0])).tolist()
        [2, 3, 4, 0, 1]
    """
    first, count = start[groups], start[groups + 1] - start[groups]
    skipped = np.cumsum(count) - count
    return np.repeat(first - skipped, count) + np.arange(int(count.sum()))
