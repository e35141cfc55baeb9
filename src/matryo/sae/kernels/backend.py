"""Which implementation of the kernels runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from matryo.spine.errors import unknown

Backend = Literal["auto", "torch"]

_backend: Backend = "auto"


@contextmanager
def use(backend: Backend) -> Iterator[None]:
    """Run the kernels of one implementation while the context is open.

    "auto" compiles loops for float32 and float64 on a CPU and uses plain PyTorch operations for everything else;
    "torch" uses those everywhere.

    Raises:
        ValueError: there is no such implementation.
    """
    global _backend
    if backend not in ("auto", "torch"):
        raise unknown("kernels", backend, ("auto", "torch"))
    before, _backend = _backend, backend
    try:
        yield
    finally:
        _backend = before


def has_compiled(like: Tensor) -> bool:
    """Whether tensors of this kind are read by compiled loops."""
    return _backend == "auto" and like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64)
