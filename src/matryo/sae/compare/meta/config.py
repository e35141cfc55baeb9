"""How a meta-SAE is trained. Imports no torch, so that command lines stay quick."""

import math
from dataclasses import dataclass
from typing import Literal

from matryo.sae.nn.config import Kind, SAEConfig
from matryo.sae.train.config import TrainConfig

PAPER_FRACTION = 2304 / 49_152
"""Meta-latents per latent of the paper's meta-SAE of GPT-2 small: 3/64, about 1/21."""

PAPER_BATCH = 16_384
"""Rows per step in the paper: a third of its 49,152."""


@dataclass(frozen=True, kw_only=True)
class MetaConfig:
    """A meta-SAE and its training; the defaults are the setting of Leask et al. (2025)."""

    kind: Kind = "batch_topk"
    "Activation rule of the meta-SAE: relu, gated, topk, batch_topk or jumprelu."
    n_meta: int | None = None
    "Meta-latents; fraction times the number of latents, rounded up, when not given."
    fraction: float = PAPER_FRACTION
    "Meta-latents per latent: 2304 / 49152 in the paper, 0.25 in SAEBench."
    k: int = 4
    "Mean active meta-latents per latent."
    levels: Literal["none", "nested", "sampled"] = "none"
    "Matryoshka levels of the meta-SAE."
    l1: float = 5.0
    "relu, gated: weight of the L1 penalty."
    steps: int = 2000
    "Steps of training."
    lr: float = 1e-3
    "Peak learning rate."
    batch: int | None = None
    "Decoder rows per step; a third of them, at most 16384, when not given."
    replacement: bool = False
    "Draw every batch's rows with replacement (SAEBench) instead of going through a shuffle of all."
    aux_weight: float = 1 / 16
    "Weight of the auxiliary loss that brings dead meta-latents back."
    aux_k: int = 512
    "Dead meta-latents that reconstruct the residual of each row."
    dead_after: int = 100
    "Steps without firing after which a meta-latent counts as dead."
    meta_seed: int = 0
    "Seed of the meta-SAE's initial weights and of the order of rows."

    def __post_init__(self) -> None:
        """Check the values that no part checks."""
        if not 0 < self.fraction < 1:
            raise ValueError(f"fraction is {self.fraction}; expected more than 0 and less than 1, such as 0.25")
        for name in ("n_meta", "k", "steps", "batch", "aux_k", "dead_after"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected a whole number of 1 or more")

    def size(self, n_rows: int) -> int:
        """Meta-latents for a dictionary of `n_rows` latents.

        Raises:
            ValueError: there are as many as latents, or k is not below their number: such a meta-SAE can copy rows.
        """
        size = self.n_meta or math.ceil(self.fraction * n_rows)
        if size >= n_rows:
            raise ValueError(
                f"the meta-SAE has {size} meta-latents for {n_rows} decoder rows; expected fewer than rows, or it "
                "copies them: lower n_meta"
            )
        if self.k > size and self.kind not in ("relu", "gated"):
            raise ValueError(
                f"k is {self.k} for {size} meta-latents of {n_rows} decoder rows; expected at most {size}: lower k or "
                "raise n_meta"
            )
        return size

    def rows_per_step(self, n_rows: int) -> int:
        """Decoder rows in a batch: as in the paper a third, up to its 16,384."""
        return self.batch or min(PAPER_BATCH, math.ceil(n_rows / 3))

    def sae_config(self, n_rows: int, d_in: int) -> SAEConfig:
        """The configuration of the meta-SAE of `n_rows` decoder rows."""
        return SAEConfig(
            kind=self.kind,
            d_in=d_in,
            n_latents=self.size(n_rows),
            k=self.k,
            levels=self.levels,
            l1=self.l1,
            aux_k=self.aux_k,
            aux_weight=self.aux_weight,
            seed=self.meta_seed,
        )

    def train_config(self, n_rows: int) -> TrainConfig:
        """The configuration of its training."""
        dead_after = self.dead_after * self.rows_per_step(n_rows)
        return TrainConfig(steps=self.steps, lr=self.lr, dead_after=dead_after, log_every=50, checkpoint_every=0)
