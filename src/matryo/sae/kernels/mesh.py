"""Processes that share a step: who holds other rows of the batch, who holds other latents.

One process alone is the ordinary case; its sums are what it has itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matryo.sae.kernels.entries import Entries


@runtime_checkable
class Group(Protocol):
    """Some processes, each of which calls the same methods in the same order, with tensors of the same shape."""

    rank: int
    size: int

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place; the same bits everywhere."""
        ...

    def max_(self, tensor: Tensor) -> Tensor:
        """The largest of all processes, element by element, in place."""
        ...

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Everyone's tensor, by rank."""
        ...


@final
class Alone:
    """A group of one."""

    rank, size = 0, 1

    def sum_(self, tensor: Tensor) -> Tensor:
        """The tensor as it is."""
        return tensor

    def max_(self, tensor: Tensor) -> Tensor:
        """The tensor as it is."""
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensor alone."""
        return [tensor]


ALONE = Alone()


@dataclass(frozen=True)
class Mesh:
    """How a step is cut: `rows` are the processes with other rows, `latents` those with other latents, `all` everyone.

    Losses are those of the whole batch and dictionary, the same on every process; a backward pass gives each process
    what its own rows and latents contribute to a gradient.
    """

    rows: Group = ALONE
    latents: Group = ALONE
    all: Group = ALONE

    @property
    def alone(self) -> bool:
        """Whether nothing is shared."""
        return self.all.size == 1

    def batch(self, x: Tensor) -> int:
        """Rows of the whole batch, of which x are this process's."""
        return total_of(len(x), self.rows, x)

    def l0(self, entries: Entries) -> float:
        """Mean positive entries per row, of the whole batch and dictionary."""
        if self.alone:
            return entries.l0
        active = total_of(int((entries.value > 0).sum()), self.all, entries.value)
        return active / self.batch(entries.row_start[1:])

    def fired(self, fired: Bool[Tensor, "n_latents"]) -> Bool[Tensor, "n_latents"]:
        """Latents that were active on some row, other processes' rows included."""
        return fired if self.rows.size == 1 else self.rows.max_(fired.to(torch.uint8)).bool()

    def smallest(self, value: Float[Tensor, "_"]) -> float | None:
        """The smallest number of all processes', None where there is none."""
        if self.alone:
            return float(value.min()) if len(value) else None
        least = value.detach().min() if len(value) else value.new_tensor(math.inf)
        least = -float(self.all.max_(-least))
        return least if math.isfinite(least) else None


def total_of(count: int, group: Group, like: Tensor) -> int:
    """The sum of everyone's whole number."""
    if group.size == 1:
        return count
    return int(group.sum_(torch.tensor(count, device=like.device)))


def shared_sum(value: Tensor, group: Group) -> Tensor:
    """The sum over a group as a differentiable number: each process's backward pass is for its own summand."""
    return value if group.size == 1 else _SharedSum.apply(value, group)  # pyright: ignore[reportReturnType]


class _SharedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Group) -> Tensor:
        return group.sum_(value.detach().clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grads[0], None
