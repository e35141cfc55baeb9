"""Any iterable of batches as one endless, resumable source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor | None]


@runtime_checkable
class Resumable(Protocol):
    """A source that knows where it is."""

    def state(self) -> dict[str, Any]:
        """Where it is, as plain values: after the last batch given."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there with the next iteration."""
        ...


class BatchSource:
    """Batches of an iterable, begun anew when it ends (if it can be).

    An iterable with `state()` and `restore()` is asked where it is; any other is replayed by skipping.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches
        self.given = 0
        self._iterator: Iterator[Any] | None = None

    def take(self) -> Batch | None:
        """The next batch as (x, target or None) in floating point, or None when a one-time iterator is exhausted."""
        for _ in range(2):
            if self._iterator is None:
                self._iterator = iter(self.batches)
            item = next(self._iterator, None)
            if item is not None:
                batch = as_batch(item, f"batch {self.given}")
                self.given += 1
                return batch
            if self._iterator is self.batches:
                return None
            self._iterator = None
        return None

    def state(self) -> dict[str, Any]:
        """Where the source is."""
        if isinstance(self.batches, Resumable):
            return {"given": self.given, "source": self.batches.state()}
        return {"given": self.given}

    def restore(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken."""
        if isinstance(self.batches, Resumable) and "source" in state:
            self.batches.restore(state["source"])
            self.given = state["given"]
            return
        for index in range(state["given"]):
            if self.take() is None:
                raise ValueError(
                    f"the batches end at {index}; expected at least {state['given']}: resume on the same data"
                )


def as_batch(item: Any, name: str) -> Batch:
    """What an iterable gave, as (x, target or None) in floating point.

    Raises:
        ValueError: it is no (batch, d_in) tensor, nor a list or tuple of one or two of as many rows; or a value is NaN
            or infinite (the row is named).
    """
    parts = item if isinstance(item, tuple | list) else (item,)
    shapes = [tuple(part.shape) if torch.is_tensor(part) else type(part).__name__ for part in parts]
    rows = {shape[0] if isinstance(shape, tuple) and len(shape) == 2 else 0 for shape in shapes}
    if not 1 <= len(parts) <= 2 or len(rows) > 1 or 0 in rows:
        found = " and ".join(map(str, shapes[:3])) or "empty"
        raise ValueError(
            f"{name} is {found}; expected a tensor (batch, d_in), or a pair of as many rows, with at least one row"
        )
    x, *target = (_finite(_floating(part), name) for part in parts)
    return x, target[0] if target else None


def _floating(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _finite(x: Tensor, name: str) -> Tensor:
    # The sum is quick; only when it is not finite are the rows looked at.
    if not math.isfinite(float(x.detach().sum())):
        bad = (~torch.isfinite(x)).any(1).nonzero().view(-1)
        if len(bad):
            raise ValueError(
                f"row {int(bad[0])} of {name} is NaN or infinite; expected finite activations: drop the row"
            )
    return x
