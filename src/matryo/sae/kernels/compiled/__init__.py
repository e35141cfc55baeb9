"""Kernels compiled by numba, for CPUs: the inner loops of selection, decoding and the update of weights.

Nothing here allocates more than a row per thread: arrays come in and are filled. Work is cut into as many fixed parts
as `threads()` says, so that the same number of threads gives the same bits. Kernels are called from one thread, and
compiled once for each number type, then read from numba's cache on disk.
"""

from typing import Any

import numba
import torch
from numba.core import config

FAST = {"reassoc", "contract", "nsz"}
"""Sums in any order and fused multiply-adds; NaN and infinity keep their meaning, so that a broken loss is seen."""

parallel: Any = numba.njit(parallel=True, cache=True, fastmath=FAST, error_model="numpy")
"""Compile a function whose prange loops are cut over threads."""

serial: Any = numba.njit(cache=True, fastmath=FAST, error_model="numpy")
"""Compile a function of one thread."""


def _start_threads() -> None:
    """Start numba's threads and leave PyTorch's number of threads as it was.

    Both may use one OpenMP library, in which numba, as it starts, sets the number of threads for all: a process told to
    use one thread would go on with as many as there are cores, and its products round otherwise than before.
    """
    before = torch.get_num_threads()
    numba.get_num_threads()
    torch.set_num_threads(before)


_start_threads()


def threads() -> int:
    """How many parts the work is cut into: PyTorch's number of threads, as far as numba has them."""
    count = min(torch.get_num_threads(), config.NUMBA_NUM_THREADS)  # pyright: ignore[reportAttributeAccessIssue]
    numba.set_num_threads(count)
    return count
