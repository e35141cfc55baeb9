"""Which implementation of the kernels runs."""

from __future__ import annotations

import importlib.util
from types import TracebackType

import torch
from torch import Tensor

from matryo.spine.errors import unknown

BACKENDS = ("auto", "torch", "triton")

_chosen = "auto"


def chosen() -> str:
    """The name of the backend in use."""
    return _chosen


def has_compiled(like: Tensor) -> bool:
    """Whether tensors of this kind are read by compiled loops."""
    return _chosen == "auto" and like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64)


class use:  # noqa: N801 - called like a function, as torch.no_grad is
    """Choose the backend for the whole process: at once, or for the length of a `with` block.

        use("triton")              # from here on
        with use("triton"): ...    # in this block, backward pass included if it is run there

    `auto` (the default) reads float32 and float64 on a CPU by loops that numba compiles, and runs PyTorch's operations
    for everything else. `torch` is those operations everywhere, and the reference. `triton` is opt-in and takes CUDA
    tensors only: its kernels were tested under Triton's interpreter and compiled, but have NOT YET BEEN RUN ON
    HARDWARE, and no claim of speed is made.

    The choice is the process's, not the thread's: autograd runs the backward pass of a GPU in a thread of its own.

    Raises:
        ValueError: an unknown backend, or Triton is not installed.
    """

    def __init__(self, backend: str) -> None:
        global _chosen
        if backend not in BACKENDS:
            raise unknown("kernel backend", backend, BACKENDS)
        if backend == "triton" and importlib.util.find_spec("triton") is None:
            raise ValueError(
                "kernel backend triton needs the package triton, which is not installed; expected auto or torch, or "
                "install it: pip install triton"
            )
        self._before, _chosen = _chosen, backend

    def __enter__(self) -> None:
        """The backend was chosen when the object was made."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Back to the backend before."""
        global _chosen
        _chosen = self._before
