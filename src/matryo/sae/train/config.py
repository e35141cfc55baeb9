"""How autoencoders are trained. Imports no torch, so that command lines stay quick."""

import math
from dataclasses import dataclass
from typing import Literal

from matryo.spine.errors import unknown


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The optimiser and its schedule, common to all autoencoders of a run."""

    steps: int | None = None
    "Number of batches; the length of the iterable when not given and known."
    lr: float | None = None
    "Peak learning rate; 2e-4 · √(16384 / n_latents) for each autoencoder when not given (Gao et al., 2024)."
    threshold_lr: float = 5.0
    "jumprelu: learning rate of the thresholds as a multiple of the others'."
    # Adam moves a number by about its rate a step. With 1, on a small model's residual stream, L0 was 15 after 1,000
    # steps where 32 was asked for; with 5 it was 33, and 29 after 200; with 10 nested dictionaries reconstruct worse.
    betas: tuple[float, float] = (0.9, 0.99)
    "Adam's decay rates (Bussmann et al., 2024)."
    moments: Literal["float32", "bfloat16"] = "float32"
    "Number type of Adam's moments of the two weight matrices (as the weights', or half the memory; CPU only)."
    warmup: float = 0.05
    "Fraction of the steps in which the learning rate rises linearly from 0, at most 1,000 steps."
    decay: float = 0.2
    "Fraction of the steps, at the end, in which it falls linearly to 0."
    sparsity_warmup: float = 0.1
    "Fraction of the steps in which the L1 and L0 penalties rise linearly from 0."
    clip: float = 1.0
    "Largest global norm of the gradient of one autoencoder; 0 for no clipping."
    dead_after: int = 1_000_000
    "Tokens without firing after which a latent counts as dead."
    log_every: int = 10
    "Steps between lines of metrics."
    checkpoint_every: int = 500
    "Steps between checkpoints; 0 for none but at the end or an interruption."

    def __post_init__(self) -> None:
        """Check every value."""
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected a whole number of 1 or more")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr}; expected a positive number, such as 3e-4")
        if self.moments not in ("float32", "bfloat16"):
            raise unknown("moments", self.moments, ("float32", "bfloat16"))
        if not 0 < self.threshold_lr < math.inf:
            raise ValueError(f"threshold_lr is {self.threshold_lr}; expected a positive number, such as 5")
        for name in ("warmup", "decay", "sparsity_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a fraction of the steps, 0 to 1")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}; expected two numbers of at least 0 and below 1")
        if not self.clip >= 0:
            raise ValueError(f"clip is {self.clip}; expected 0 (none) or a positive norm")
        for name, least in (("dead_after", 1), ("log_every", 1), ("checkpoint_every", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a whole number of {least} or more")

    def lr_factor(self, step: int, steps: int) -> float:
        """Share of the peak learning rate at a step (0-based): linear warm-up, constant, linear decay to 0."""
        warm = min(1000, round(self.warmup * steps))
        decay = round(self.decay * steps)
        factor = min(1.0, (step + 1) / (warm + 1))
        return min(factor, (steps - step) / (decay + 1))

    def sparsity_factor(self, step: int, steps: int) -> float:
        """Share of the full sparsity penalty at a step (0-based)."""
        return min(1.0, (step + 1) / (round(self.sparsity_warmup * steps) + 1))
