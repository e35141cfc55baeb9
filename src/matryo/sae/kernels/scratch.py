"""Memory that is used again from call to call: pages that a step returns cost more to get back than to keep."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

_kept: dict[tuple[str, torch.dtype], Tensor] = {}


def scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Uninitialised memory on the CPU, the same at every call of one name and number type, grown when it is too small.

    What it holds is gone at the next call; kernels are called from one thread, so that nobody else makes it.
    """
    size = prod(shape)
    held = _kept.get((name, dtype))
    if held is None or held.numel() < size:
        held = _kept[name, dtype] = torch.empty(size, dtype=dtype)
    return held[:size].view(shape)
