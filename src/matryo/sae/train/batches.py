"""Any iterable of batches as one endless, resumable source."""

from __future__ import annotations

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
                self.given += 1
                return _as_batch(item)
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


def _as_batch(item: Any) -> Batch:
    x, target = item if isinstance(item, tuple | list) else (item, None)
    for value in (x, target):
        if value is not None and (not torch.is_tensor(value) or value.dim() != 2 or not len(value)):
            shape = tuple(value.shape) if hasattr(value, "shape") else type(value).__name__
            raise ValueError(
                f"a batch is {shape}; expected a tensor (batch, d_in) or a pair of them with at least one row"
            )
    return _floating(x), None if target is None else _floating(target)


def _floating(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
