"""Adam's moments in memory: as they are, or as bfloat16 in 16-bit integers.

bfloat16 is the upper half of a float32. A second moment changes by a hundredth of itself a step, less than half of
bfloat16's spacing: rounding to nearest would freeze it, so it is rounded up or down at random, in proportion, by a hash
of seed and position.
"""

import numpy as np
from numba.core import types
from numba.extending import overload

from matryo.sae.kernels.compiled import serial


def open_row(stored, buffer):
    """A row of moments to compute with: the row itself, or its numbers in `buffer` (float32)."""
    raise NotImplementedError("for numba only")


def close_row(opened, stored, seed):
    """Write an opened row back, where it is not the row itself."""
    raise NotImplementedError("for numba only")


@overload(open_row, inline="never")
def _open_row(stored, buffer):
    if isinstance(stored.dtype, types.Float):
        return lambda stored, buffer: stored

    def unpack(stored, buffer):
        bits = buffer.view(np.uint32)
        for i in range(len(stored)):
            bits[i] = np.uint32(stored[i]) << np.uint32(16)
        return buffer

    return unpack


@overload(close_row, inline="never")
def _close_row(opened, stored, seed):
    if isinstance(stored.dtype, types.Float):
        return lambda opened, stored, seed: None

    def pack(opened, stored, seed):
        bits = opened.view(np.uint32)
        for i in range(len(stored)):
            stored[i] = np.uint16((bits[i] + (hash_of(seed, i) & np.uint32(0xFFFF))) >> np.uint32(16))

    return pack


@serial
def hash_of(seed, i):
    """A 32-bit hash of two numbers (Wellons' lowbias32 of their mixture)."""
    h = np.uint32(seed) ^ (np.uint32(i) * np.uint32(0x9E3779B9))
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
    return h ^ (h >> np.uint32(16))
