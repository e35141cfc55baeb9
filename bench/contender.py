"""What every library's adapter has to answer, and how a peer is imported."""

from __future__ import annotations

import importlib.metadata
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from bench.workload import Shape, Workload

KINDS = {
    "batch_topk": "BatchTopK",
    "topk": "TopK",
    "matryoshka": "Matryoshka BatchTopK, 5 levels",
    "jumprelu": "JumpReLU",
    "relu": "ReLU",
}

LR = 1e-5
"""Learning rate of all, constant: it changes no work, and so low a rate keeps the number of active latents steady."""

AUX_K = 512
"""Dead latents that reconstruct a token's residual, where a library lets it be set."""


class NotOffered(Exception):  # noqa: N818 - an answer, not an error
    """The library has no such thing."""


@dataclass(frozen=True)
class Task:
    """What is asked of a contender."""

    kind: str
    shape: Shape
    aux: bool = False
    "train the dead latents too"

    @property
    def levels(self) -> list[int]:
        """Matryoshka prefix lengths n/16, n/8, n/4, n/2, n."""
        return [self.shape.n_latents // part for part in (16, 8, 4, 2, 1)]


class Contender(ABC):
    """One library's autoencoder of one kind, trained by the library's own code.

    `setup` copies the workload's weights; `step` takes one whole training step: forward, loss, backward, clipping where
    the library clips, optimiser, decoder normalisation, and the library's bookkeeping. Imports happen in `setup`, so
    that a library that is not there is reported rather than in the way.
    """

    library: ClassVar[str]
    distribution: ClassVar[str]
    notes: ClassVar[str]
    "what differs from the others' work, for the table"

    def __init__(self, kind: str, variant: str = "") -> None:
        self.kind, self.variant = kind, variant
        self.losses: list[float] = []

    @property
    def name(self) -> str:
        """Library and variant."""
        return f"{self.library}, {self.variant}" if self.variant else self.library

    @property
    def version(self) -> str | None:
        """The installed version, None when it is not installed."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    @abstractmethod
    def setup(self, task: Task, work: Workload) -> None:
        """Build the autoencoder and its trainer. Raises ImportError, or NotOffered."""

    @abstractmethod
    def step(self, x: Tensor) -> None:
        """One training step; its loss, by the library's own measure, goes into `losses`."""

    @abstractmethod
    def reconstruct(self, x: Tensor) -> tuple[Tensor, float]:
        """(x̂, mean active latents per token) by the rule of training; never timed."""

    @abstractmethod
    def state(self) -> Iterable[Tensor]:
        """Weights, buffers and the optimiser's moments."""

    def mark_dead(self, dead: Tensor) -> None:
        """Enter latents into the library's own bookkeeping as dead for long. Raises NotOffered."""
        raise NotOffered(f"{self.library} has no loss on dead {KINDS[self.kind]} latents")

    def dead_count(self) -> int:
        """How many latents the library holds for dead."""
        raise NotOffered

    def setup_encoder(self, task: Task, work: Workload) -> None:
        """Build what the library encodes with after training. Raises ImportError, or NotOffered."""
        raise NotOffered(f"{self.library} is not asked to encode {KINDS[self.kind]}")

    def encode(self, x: Tensor) -> Any:
        """Latents of a batch by the rule of inference, in whatever form the library gives them."""
        raise NotOffered

    def active(self, latents: Any) -> float:
        """Mean active latents per token of what `encode` gave."""
        return float((latents != 0).sum()) / len(latents)


def tensors_of(module: nn.Module, *optimisers: Optimizer) -> Iterator[Tensor]:
    """Parameters, buffers, and every tensor of the optimisers' states."""
    yield from module.parameters()
    yield from module.buffers()
    for optimiser in optimisers:
        for moments in optimiser.state.values():
            yield from (value for value in moments.values() if isinstance(value, Tensor))


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Import a library with stand-ins for modules that it loads at import but does not need here.

    Peers pull in language-model wrappers, image libraries and plotting in versions that exclude one another; nothing of
    them is called in a training step. The stand-ins are gone afterwards.
    """
    put = [name for name in names if name not in sys.modules]
    sys.modules.update({name: _StandIn(name) for name in put})
    try:
        yield
    finally:
        for name in put:
            del sys.modules[name]


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})
