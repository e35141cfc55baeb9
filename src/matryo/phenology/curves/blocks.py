"""Compiled work on many series, block by block, on threads that hold no lock of Python's."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

BLOCK = 256
"""Series a thread takes at a time: some milliseconds of work, so that slow series spread."""


def run_blocks(work: Callable[[slice], None], n: int, threads: int) -> None:
    """Call `work` on slices that cover n series, on so many threads (0: one per core).

    Threads of Python's and kernels without the lock, not Numba's own parallel loops: those end the process when two
    threads enter them at once, as dask's do. The first block runs alone, as it may have to compile.
    """
    parts = list(_slices(n))
    for part in parts[:1]:
        work(part)
    threads = threads or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if threads == 1 or len(parts) < 3:
        for part in parts[1:]:
            work(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, parts[1:]):
            pass


def _slices(n: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))
