"""What is shared out among processes, and how: rows, latents or autoencoders."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from matryo.sae.kernels import ALONE, Mesh
from matryo.sae.nn import SAE, SAEConfig, build
from matryo.sae.train.batches import Batch
from matryo.sae.train.parallel.processes import OtherProcessError
from matryo.sae.train.parallel.slices import build_slice, save_slices, slice_of
from matryo.spine.errors import unknown

if TYPE_CHECKING:
    from matryo.sae.train.parallel.processes import Processes

Mode = Literal["data", "latents", "grid"]
MODES: tuple[str, ...] = ("data", "latents", "grid")

T = TypeVar("T")


class Parallel:
    """How a run is shared out among processes.

    * "data": every process has whole autoencoders and its rows of each batch; gradients are summed.
    * "latents": every process has whole batches and a slice of each dictionary; reconstructions are summed.
    * "grid": every process has whole batches and some of the autoencoders; nothing is summed.

    Without processes it is the ordinary case of one.
    """

    def __init__(self, mode: Mode = "data", processes: Processes | None = None) -> None:
        if mode not in MODES:
            raise unknown("parallel mode", mode, MODES)
        self.mode: Mode = mode
        self.processes = processes if processes is not None and processes.size > 1 else None
        world = self.processes or ALONE
        self.rank, self.size = world.rank, world.size
        shared = {"data": Mesh(rows=world, all=world), "latents": Mesh(latents=world, all=world), "grid": Mesh()}
        self.mesh: Mesh = shared[mode]
        self.configs: dict[str, SAEConfig] | None = None

    @property
    def first(self) -> bool:
        """Whether this process speaks, logs and writes for all."""
        return self.rank == 0

    def build(self, configs: Mapping[str, SAEConfig], device: str = "cpu") -> dict[str, SAE]:
        """What this process trains of these autoencoders, with the weights that one process would begin with.

        Raises:
            ValueError: there are fewer autoencoders, or latents, than processes.
        """
        self.configs = dict(configs)
        if self.mode == "grid":
            mine = self._own_of_grid()
            return {name: build(config).to(device) for name, config in configs.items() if name in mine}
        if self.mode == "latents":
            return {name: build_slice(config, self.rank, self.size).to(device) for name, config in configs.items()}
        return {name: build(config).to(device) for name, config in configs.items()}

    def _own_of_grid(self) -> set[str]:
        """Autoencoders by falling size, each to the process with the least work so far."""
        assert self.configs is not None
        if len(self.configs) < self.size:
            raise ValueError(
                f"there are {len(self.configs)} autoencoders for {self.size} processes; expected at least one each: "
                "start fewer, or share out rows or latents (--parallel data or latents)"
            )
        work = [0] * self.size
        mine = set()
        for name, config in sorted(self.configs.items(), key=lambda item: -item[1].n_latents * item[1].d_in):
            least = work.index(min(work))
            work[least] += config.n_latents * config.d_in
            if least == self.rank:
                mine.add(name)
        return mine

    def attach(self, sae: SAE) -> None:
        """Make an autoencoder's training steps those of the whole.

        Raises:
            ValueError: it has all latents where this process's slice was expected.
        """
        first, stop = slice_of(sae.config.n_latents, self.rank, self.size) if self.mode == "latents" else (0, 0)
        if self.mode == "latents" and (sae.first, len(sae.W_dec)) != (first, stop - first):
            raise ValueError(
                f"{sae.config.name} has {len(sae.W_dec)} latents from {sae.first} on here; expected latents {first} to "
                f"{stop}: make it with Parallel.build"
            )
        sae.mesh = self.mesh

    def cut(self, batch: Batch) -> Batch:
        """This process's rows of a batch.

        Raises:
            ValueError: there are fewer rows than processes.
        """
        if self.mesh.rows.size == 1:
            return batch
        x, target = batch
        if len(x) < self.size:
            raise ValueError(f"a batch has {len(x)} rows for {self.size} processes; expected at least one each")
        first, stop = slice_of(len(x), self.rank, self.size)
        return x[first:stop], None if target is None else target[first:stop]

    def agree(self, level: int) -> int:
        """The highest level that any process names."""
        return level if self.processes is None else int(self.processes.max_(torch.tensor(level, device=self.device)))

    @property
    def device(self) -> torch.device:
        """Where numbers that are exchanged lie."""
        return torch.device("cpu") if self.processes is None else self.processes.device

    def exchange(self, value: T) -> list[T]:
        """Everyone's plain value, by rank."""
        if self.processes is None:
            return [value]
        return [json.loads(text) for text in self.processes.gather_bytes(json.dumps(value).encode())]

    def from_first(self, act: Callable[[], T]) -> T:
        """What `act` gives, a plain value; only the first process does it.

        Raises:
            OtherProcessError: it met an error, which it says itself.
        """
        if self.processes is None:
            return act()
        answer: list[T] = []
        failure: Exception | None = None
        try:
            answer += [act()] if self.first else []
        except (ValueError, OSError) as error:
            failure = error
        answer = self.exchange(answer)[0]
        if not answer:
            raise failure or OtherProcessError("the first process could not go on; its own message says why")
        return answer[0]

    def merged(self, named: dict[str, Any]) -> dict[str, Any]:
        """What every process knows of its own autoencoders, of all of them; in the order of the run."""
        if self.processes is None or self.mode != "grid":
            return named
        assert self.configs is not None
        found = {name: value for part in self.exchange(named) for name, value in part.items()}
        return {name: found[name] for name in self.configs if name in found}

    def save(self, sae: SAE, folder: Path, metadata: dict[str, Any] | None = None) -> None:
        """Write one ordinary SAE folder of an autoencoder that this process trained its part of."""
        if self.mode == "latents" and self.processes is not None:
            save_slices(sae, folder, metadata or {}, self.processes)
        elif self.mode == "grid" or self.first:
            sae.save(folder, metadata)

    def rows_of(self, tensor: Tensor) -> Tensor:
        """A whole tensor's slice of latents."""
        first, stop = slice_of(len(tensor), self.rank, self.size)
        return tensor[first:stop]
