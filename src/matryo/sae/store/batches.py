"""Shuffled batches from rows of activations, pass after pass, from anywhere in a pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from matryo.sae.store.tables import Activations, shuffled_order
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
        carried: Tensor | None = None
        skip = self._given * self.batch_size
        for number, start in enumerate(range(0, len(order), WINDOW)):
            window = order[start : start + WINDOW]
            if skip >= len(window):
                skip -= len(window)
                continue
            mixed = numpy_generator(self.seed, "window", self._pass, number).permutation(len(window))
            # Gathered chunk by chunk, mixed in memory: a cold file is then read front to back.
            rows = self.table.gather(self.split, window)[torch.from_numpy(mixed[skip:])]
            skip = 0
            rows = rows if carried is None else torch.cat([carried, rows])
            whole = len(rows) // self.batch_size * self.batch_size
            # Not split(): it makes an empty batch of rows that are fewer than one.
            for first in range(0, whole, self.batch_size):
                self._given += 1
                yield rows[first : first + self.batch_size].float()
            carried = rows[whole:]
        self._pass, self._given = self._pass + 1, 0

    def state(self) -> dict[str, Any]:
        """Pass and batches given in it."""
        return {"pass": self._pass, "given": self._given}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there with the next iteration."""
        self._pass, self._given = state["pass"], state["given"]


def in_order(table: Activations, split: str, batch_size: int) -> Iterator[Tensor]:
    """All rows of a split once, in stored order, the last batch as short as it must be."""
    rows = table.rows(split)
    for start in range(0, len(rows), batch_size):
        yield table.gather(split, rows[start : start + batch_size]).float()
