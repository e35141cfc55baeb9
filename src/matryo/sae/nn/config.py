"""The hyper-parameters of one autoencoder. Imports no torch, so that command lines stay quick."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from matryo.spine.errors import unknown

Kind = Literal["relu", "gated", "topk", "batch_topk", "jumprelu"]
KINDS: tuple[str, ...] = get_args(Kind)

NESTED = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Default Matryoshka prefixes as fractions of n_latents (Bussmann et al., 2025, appendix D)."""


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """One autoencoder. Every coefficient is meant for activations scaled so that E‖x‖² = d_in."""

    kind: Kind = "batch_topk"
    "Activation rule: relu, gated, topk, batch_topk or jumprelu."
    d_in: int
    "Width of the activations."
    n_latents: int
    "Number of latents (dictionary size)."
    k: int = 32
    "Mean active latents per token: exact for topk and batch_topk, a target for jumprelu, unused by relu and gated."
    levels: tuple[int, ...] | Literal["none", "nested", "sampled"] = "none"
    "Matryoshka prefix lengths (ascending, last = n_latents), 'nested' (n/16, n/8, n/4, n/2, n) or 'sampled' per batch."
    level_weights: tuple[float, ...] = ()
    "One weight per level, normalised to sum 1; equal when empty."
    sampled_levels: int = 10
    "With levels 'sampled': prefixes drawn per batch, the full length always among them."
    d_out: int | None = None
    "Width of the target when it is not the input: makes a transcoder, whose input is not centred by b_dec."
    l1: float = 5.0
    "relu, gated: weight λ of the sparsity penalty λ · mean Σ_j z_j‖W_dec[j]‖ / d_in."
    l0_weight: float = 1.0
    "jumprelu: weight of the target penalty (L0 / k − 1)²."
    bandwidth: float = 0.5
    "jumprelu: width ε of the straight-through window around the threshold."
    aux_k: int | None = None
    "Dead latents that reconstruct the residual of each token; d_in // 2 when not given."
    aux_weight: float = 1 / 32
    "Weight α of the auxiliary loss."
    seed: int = 0
    "Seed of the initial weights and of sampled levels."

    def __post_init__(self) -> None:
        """Check every value."""
        if self.kind not in KINDS:
            raise unknown("kind of SAE", self.kind, KINDS)
        for name in ("d_in", "n_latents", "k", "sampled_levels"):
            _positive(name, getattr(self, name))
        for name in ("d_out", "aux_k"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; expected a whole number of 64 bits, such as 0")
        if self.k > self.n_latents and self.kind not in ("relu", "gated"):
            raise ValueError(
                f"k is {self.k}; expected at most n_latents = {self.n_latents}: lower k or raise n_latents"
            )
        if not 0 < self.bandwidth < math.inf:
            raise ValueError(f"bandwidth is {self.bandwidth}; expected a positive number, such as 0.5")
        for name in ("l1", "l0_weight", "aux_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number of 0 or more")
        lengths = self.lengths
        wanted = "none with sampled levels" if self.levels == "sampled" else f"{len(lengths)}, one per fixed level"
        if self.level_weights and (self.levels == "sampled" or len(self.level_weights) != len(lengths)):
            raise ValueError(f"level_weights has {len(self.level_weights)} numbers; expected {wanted}")
        usable = all(0 <= weight < math.inf for weight in self.level_weights)
        if not usable or (self.level_weights and not sum(self.level_weights)):
            raise ValueError(f"level_weights is {self.level_weights}; expected numbers of 0 or more, not all 0")

    @property
    def lengths(self) -> tuple[int, ...]:
        """The prefix lengths, ascending, the last one n_latents; with sampled levels, those to report on."""
        if isinstance(self.levels, str):
            if self.levels not in ("none", "nested", "sampled"):
                raise unknown("levels", self.levels, ("none", "nested", "sampled"))
            fractions = (1.0,) if self.levels == "none" else NESTED
            return tuple(sorted({max(1, int(part * self.n_latents)) for part in fractions}))
        levels = tuple(self.levels)
        ascending = all(a < b for a, b in pairwise(levels))
        if not levels or not ascending or levels[0] < 1 or levels[-1] != self.n_latents:
            raise ValueError(
                f"levels is {levels}; expected ascending prefix lengths whose last is n_latents = {self.n_latents}"
            )
        return levels

    @property
    def nested(self) -> bool:
        """Whether the Matryoshka objective is used."""
        return self.levels == "sampled" or len(self.lengths) > 1

    @property
    def transcoder(self) -> bool:
        """Whether the target is another activation than the input."""
        return self.d_out is not None

    @property
    def most_aux(self) -> int:
        """Dead latents that the auxiliary loss takes for each token, as far as there are so many."""
        return self.aux_k or max(1, self.d_in // 2)

    @property
    def name(self) -> str:
        """A short name, such as batch_topk-4608-k32-nested."""
        sparsity = f"l1_{self.l1:g}" if self.kind in ("relu", "gated") else f"k{self.k}"
        lengths = "-levels" + "_".join(map(str, self.lengths))
        level = {"nested": "-nested", "sampled": "-sampled"}.get(str(self.levels), lengths)
        return f"{self.kind}-{self.n_latents}-{sparsity}{level if self.nested else ''}-s{self.seed}"


def _positive(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value}; expected a whole number of 1 or more")
