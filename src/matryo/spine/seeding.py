"""Seeds that do not depend on the order in which things are drawn: one seed and a name give one stream."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_for(seed: int, *names: str | int) -> int:
    """Derive the seed, in [0, 2⁶³), of a run's named stream; the names 1 and "1" differ."""
    text = "\x1f".join([str(int(seed)), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Make the NumPy generator of a named stream."""
    return np.random.default_rng(seed_for(seed, *names))


def torch_generator(seed: int, *names: str | int) -> "torch.Generator":
    """Make the PyTorch CPU generator of a named stream."""
    import torch

    return torch.Generator().manual_seed(seed_for(seed, *names))
