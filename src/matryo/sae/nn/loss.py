"""What a batch's loss was made of, and what a rule's penalty may read."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from matryo.sae.kernels import Entries


@dataclass(frozen=True, eq=False)
class Loss:
    """One batch's loss and what it was made of. Tensors other than `total` are detached."""

    total: Float[Tensor, ""]
    levels: tuple[int, ...]
    per_level: Float[Tensor, "levels"]
    aux: Float[Tensor, ""]
    sparsity: Float[Tensor, ""]
    residual: Float[Tensor, "batch d_out"] | None
    "Target minus full reconstruction; None where a fused step had no use for it."
    entries: Entries | None
    "The active entries; None where they were too many to list."
    active: float
    "Mean active latents per token."
    fired: Bool[Tensor, "n_latents"]
    "Latents that were active on some token."
    smallest: float | None
    "Smallest selected pre-activation, a hint for the next batch's selection."


@dataclass(frozen=True, eq=False)
class Active:
    """What a rule's penalty may read of a batch."""

    pre: Float[Tensor, "entries"]
    z: Float[Tensor, "entries"]
    entries: Entries
    target: Float[Tensor, "batch d_out"]
    levels: tuple[int, ...]
    norms: Float[Tensor, "n_latents"] | None
    "Norms of the decoder rows, where they are free."
