"""Whole columns of the encoder product, wanted by somebody else while selection reads its tiles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matryo.sae.kernels.scratch import scratch


@dataclass(frozen=True, eq=False)
class Watch:
    """Columns (ascending) and where their pre-activations go, row by row; filled by a selection that is given it."""

    column: Int[Tensor, "watched"]
    pre: Float[Tensor, "batch watched"]

    @classmethod
    def of(cls, wanted: Tensor, like: Tensor) -> Watch:
        """Watch the columns where `wanted` (n_latents,) is true, for a batch of as many rows as `like`.

        On a CPU the memory is that of the watch before.
        """
        column = wanted.nonzero().view(-1)
        shape = len(like), len(column)
        on_cpu = like.device.type == "cpu"
        return cls(column, scratch("watched", shape, like.dtype) if on_cpu else like.new_empty(shape))

    def within(self, start: int, stop: int) -> tuple[int, Tensor]:
        """The watched columns of a tile, counted from its first, and the place of the first among all watched."""
        low, high = torch.searchsorted(self.column, torch.tensor([start, stop], device=self.column.device)).tolist()
        return low, self.column[low:high] - start
