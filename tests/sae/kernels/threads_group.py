"""Groups whose members are threads of one process, or take turns in one thread."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch
from torch import Tensor


class ThreadsGroup:
    """One member; all members share a board that each writes its tensor on."""

    def __init__(self, rank: int, size: int, board: list, barrier: threading.Barrier) -> None:
        self.rank, self.size, self.board, self.barrier = rank, size, board, barrier

    def gather(self, tensor: Tensor) -> list[Tensor]:
        self.board[self.rank] = tensor.clone()
        self.barrier.wait(20)
        everyone = [part.clone() for part in self.board]
        self.barrier.wait(20)
        return everyone

    def sum_(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self.gather(tensor)).sum(0))

    def max_(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self.gather(tensor)).amax(0))


def together(size: int, act: Callable) -> list:
    """What `act` gives each of `size` members."""
    board: list = [None] * size
    barrier = threading.Barrier(size)
    with ThreadPoolExecutor(size) as pool:
        jobs = [pool.submit(act, ThreadsGroup(rank, size, board, barrier)) for rank in range(size)]
        return [job.result() for job in jobs]


class _NotYetError(Exception):
    """Others have not given what this member waits for."""


class TurnsGroup(ThreadsGroup):
    """One member of a group that acts in turns, for kernels that are called from one thread: `calls` holds what
    everyone gave at each call so far."""

    def __init__(self, rank: int, size: int, calls: list[dict[int, Tensor]]) -> None:
        self.rank, self.size, self.calls, self.done = rank, size, calls, 0

    def gather(self, tensor: Tensor) -> list[Tensor]:
        if self.done == len(self.calls):
            self.calls.append({})
        call = self.calls[self.done]
        self.done += 1
        call[self.rank] = tensor.clone()
        if len(call) < self.size:
            raise _NotYetError
        return [call[rank].clone() for rank in range(self.size)]


def in_turns(size: int, act: Callable) -> list:
    """As `together` in one thread: each member begins anew until all have given what it waits for."""
    calls: list[dict[int, Tensor]] = []
    results: dict[int, object] = {}
    while len(results) < size:
        for rank in range(size):
            with suppress(_NotYetError):
                results[rank] = act(TurnsGroup(rank, size, calls))
    return [results[rank] for rank in range(size)]
