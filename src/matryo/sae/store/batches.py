"""Shuffled batches from rows of activations, pass after pass, from anywhere in a pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matryo.sae.store.tables import Activations
from matryo.spine.seeding import numpy_generator

CHUNK = 4_096
"""Rows read in one piece from a store: 6 MB at 768 × float16, far above the size where disks slow down."""

WINDOW = 65_536
"""Rows held in memory and mixed with each other."""


class ShuffledBatches:
    """Batches of `batch_size` rows of one split: one pass each time it is iterated over, each pass in a new order.

    The order depends on (seed, pass) only. `state()` and `restore()` go on within a pass without reading what came
    before. Rows at the end of a pass that do not fill a batch are left out; another pass leaves out others.
    """

    read_ahead = 2
    """Training may read this many batches ahead, in a thread: one to give, one to read meanwhile."""

    def __init__(self, table: Activations, split: str, batch_size: int, seed: int = 0) -> None:
        """Prepare to read.

        Raises:
            ValueError: the split has fewer rows than one batch.
        """
        rows = len(table.rows(split))
        if not 1 <= batch_size <= rows:
            raise ValueError(f"batch size is {batch_size}; expected 1 to {rows:,}, the rows of the {split} split")
        self.table, self.split, self.batch_size, self.seed = table, split, batch_size, seed
        self.scale = table.scale
        self._pass, self._given = 0, 0

    def __len__(self) -> int:
        """Batches in one pass."""
        return len(self.table.rows(self.split)) // self.batch_size

    def __iter__(self) -> Iterator[Tensor]:
        """The rest of the present pass."""
        order = shuffled_order(self.table, self.split, self.seed, self._pass, CHUNK)
        skip = self._given * self.batch_size
        parts: list[Tensor] = []
        count = 0
        for number, start in enumerate(range(0, len(order), WINDOW)):
            window = order[start : start + WINDOW]
            if skip >= len(window):
                skip -= len(window)
                continue
            # Gathered chunk by chunk, so that a cold file is read front to back; mixed in memory.
            rows = self.table.gather(self.split, window)
            mixed = torch.from_numpy(numpy_generator(self.seed, "window", self._pass, number).permutation(len(window)))
            while skip < len(window):
                taken = mixed[skip : skip + self.batch_size - count]
                parts.append(rows.index_select(0, taken).float())
                skip, count = skip + len(taken), count + len(taken)
                if count == self.batch_size:
                    batch = parts[0] if len(parts) == 1 else torch.cat(parts)
                    parts, count = [], 0
                    self._given += 1
                    yield batch
            skip = 0
        self._pass, self._given = self._pass + 1, 0

    def state(self) -> dict[str, Any]:
        """Pass and batches given in it."""
        return {"pass": self._pass, "given": self._given}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there with the next iteration."""
        self._pass, self._given = state["pass"], state["given"]


def in_order(table: Activations, split: str, batch_size: int, most: int | None = None) -> Iterator[Tensor]:
    """The rows of a split once, in stored order, the last batch as short as it must be.

    Where there are more than `most`, so many are read, evenly spread.
    """
    rows = table.rows(split)
    if most is not None and len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
    for start in range(0, len(rows), batch_size):
        yield table.gather(split, rows[start : start + batch_size]).float()


def shuffled_order(table: Activations, split: str, seed: int, epoch: int, chunk: int) -> np.ndarray:
    """The order in which one pass reads a split's rows.

    A shuffled store is read in long chunks, in random order: random single rows from a cold file would be ten times
    slower. Any other array is permuted row by row.
    """
    rows = table.rows(split)
    generator = numpy_generator(seed, "pass", split, epoch)
    if not table.shuffled:
        return generator.permutation(rows)
    pieces = np.array_split(rows, max(1, -(-len(rows) // chunk)))
    return np.concatenate([pieces[i] for i in generator.permutation(len(pieces))])
