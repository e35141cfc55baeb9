"""The processes that torchrun started, as a group; one that is lost is named by those that are left."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others. One that was killed is noticed at once, since its connections close; this is
for a machine that no longer answers, and longer than writing a checkpoint takes."""

ROLL_CALL_SECONDS = 5.0
"""How long those that are left wait for each other's sign of life: a closed connection is passed on in far less."""


class LostProcessError(ConnectionError):
    """Other processes of the run are gone, and this one cannot go on."""

    def __init__(self, lost: list[int], size: int, speaker: bool) -> None:
        names = " and ".join(map(str, lost))
        which = f"process{'es' if len(lost) > 1 else ''} {names} of {size} (counted from 0)" if lost else "a process"
        super().__init__(
            f"{which} was lost: killed, or its machine no longer answers; the others have stopped, and what came after "
            "the last checkpoint is to be done again"
        )
        self.lost, self.speaker = lost, speaker
        "Their ranks, and whether it is for this process to say so: it is the first of those left."


class OtherProcessError(ConnectionError):
    """Another process met an error, and says so itself."""


@final
class Processes:
    """Everyone that torchrun started, as a `matryo.sae.kernels.Group`; `traffic` counts the bytes given to it."""

    def __init__(self, store: Any, device: torch.device) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device = device
        self.traffic: Counter[str] = Counter()
        self._store = store

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def max_(self, tensor: Tensor) -> Tensor:
        """The largest of all processes, in place."""
        return self._reduce(tensor, dist.ReduceOp.MAX)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Everyone's tensor, by rank."""
        everyone = [torch.empty_like(tensor) for _ in range(self.size)]
        self._call("gather", tensor, lambda: dist.all_gather(everyone, tensor.contiguous()))
        return everyone

    def gather_bytes(self, content: bytes) -> list[bytes]:
        """Everyone's bytes, by rank."""
        mine = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        lengths = [int(length) for length in self.gather(torch.tensor([len(mine)], device=self.device))]
        padded = torch.zeros(max(lengths), dtype=torch.uint8, device=self.device)
        padded[: len(mine)] = mine.to(self.device)
        everyone = self.gather(padded)
        return [bytes(part[:length].tolist()) for part, length in zip(everyone, lengths, strict=True)]

    def send(self, tensor: Tensor) -> None:
        """Give a tensor to the first process."""
        self._call("send", tensor, lambda: dist.send(tensor.contiguous(), 0))

    def receive(self, tensor: Tensor, sender: int) -> Tensor:
        """Take a tensor that `send` gave, into memory of its shape."""
        self._call("receive", tensor.new_empty(0), lambda: dist.recv(tensor, sender))
        return tensor

    def is_repeated(self, error: Exception) -> bool:
        """Whether the first process met the same error, and says so: asked by each process that met one."""
        self._store.set(f"error/{self.rank}", str(error))
        if self.rank == 0:
            return False
        try:
            self._store.wait(["error/0"], timedelta(seconds=ROLL_CALL_SECONDS))
        except RuntimeError:  # it met none
            return False
        return self._store.get("error/0").decode() == str(error)

    def _reduce(self, tensor: Tensor, operation: Any) -> Tensor:
        # A transposed matrix is summed as it lies in memory.
        flat = tensor.t() if tensor.dim() == 2 and not tensor.is_contiguous() else tensor
        self._call("reduce", tensor, lambda: dist.all_reduce(flat, operation))
        return tensor

    def _call(self, kind: str, tensor: Tensor, collective: Callable[[], Any]) -> None:
        self.traffic[kind] += tensor.numel() * tensor.element_size()
        try:
            collective()
        except RuntimeError as error:
            raise self._lost() from error

    def wait_for_all(self, what: str) -> None:
        """Until every process has come here, however long that takes."""
        self._store.set(f"{what}/{self.rank}", "yes")
        while not all(self._store.check([f"{what}/{rank}"]) for rank in range(self.size)):
            time.sleep(0.05)

    def _lost(self) -> ConnectionError:
        """Leave the group, so that the others notice, and say who is missing."""
        dist.destroy_process_group()
        return self.roll_call() or LostProcessError([], self.size, self.rank == 0)

    def roll_call(self) -> ConnectionError | None:
        """Who is missing, of those that did not say an error of their own; None when everyone is there."""
        self._store.set(f"alive/{self.rank}", "yes")
        everyone, until = range(self.size), time.monotonic() + ROLL_CALL_SECONDS
        missing = list(everyone)
        while missing and time.monotonic() < until:
            time.sleep(0.05)
            missing = [rank for rank in everyone if not self._store.check([f"alive/{rank}"])]
        lost = [rank for rank in missing if not self._store.check([f"error/{rank}"])]
        if not missing:
            return None
        if not lost:
            return OtherProcessError("another process met an error; its own message says which")
        first = min((rank for rank in everyone if rank not in missing), default=self.rank)
        return LostProcessError(lost, self.size, first == self.rank)


def started_by_torchrun() -> bool:
    """Whether this process is one of several, or of one, that torchrun started."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def own_device(device: str) -> str:
    """This process's device: with several CUDA devices on a machine, one for each process there."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" and started_by_torchrun() else device


@contextmanager
def open_processes(device: str = "cpu") -> Iterator[Processes]:
    """Join the processes that torchrun started, for the length of a `with` block.

    Raises:
        ValueError: this process was not started by torchrun.
    """
    if not started_by_torchrun():
        raise ValueError(
            "this is one process; expected several, started by: torchrun --nproc-per-node 2 -m matryo sae train ..."
        )
    place = torch.device(own_device(device))
    if place.type == "cuda":
        torch.cuda.set_device(place)
    store, rank, size = next(iter(dist.rendezvous("env://", timeout=TIMEOUT)))  # pyright: ignore[reportPrivateImportUsage]
    store = dist.PrefixStore("matryo", store)  # pyright: ignore[reportPrivateImportUsage]
    backend = "nccl" if place.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield Processes(store, place)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
