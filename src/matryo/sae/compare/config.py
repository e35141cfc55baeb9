"""How two autoencoders are stitched. Imports no torch, so that command lines stay quick."""

from dataclasses import dataclass
from typing import Literal

PAPER_THRESHOLD = 0.7
"""Decoder cosine below which latents of GPT-2's SAEs tend to lower the error (Leask et al., 2025, figure 4)."""

Order = Literal["published", "greedy"]


@dataclass(frozen=True, kw_only=True)
class StitchConfig:
    """Which latents count as novel, what counts as similar, and in which order the path goes."""

    threshold: float | Literal["roc"] = PAPER_THRESHOLD
    "Decoder cosine above which two latents are similar; roc: the one that tells novel latents best by their cosine."
    by: Literal["mse", "cosine"] = "mse"
    "What makes a latent novel: it lowers the error (ΔMSE < 0), or its largest cosine is at most the threshold."
    b_dec: Literal["small", "large"] = "small"
    "Whose b_dec stitched SAEs have: the smaller's until the last step (the paper), or the larger's from the first."
    order: tuple[Order, ...] = ("greedy", "published")
    "Paths, repeatable: greedy (novel latents, then at each step the swap that lowers MSE most for what it changes) or \
published (swaps by cosine, then the rest)."
    assignment: bool = False
    "Also match latents one to one, with the largest sum of cosines (Hungarian method)."
    tokens: int = 50_000
    "Held-out tokens to measure on, as far as there are so many."
    ce_points: int = 6
    "Steps of each path at which the model's cross-entropy is measured, ends included."

    def __post_init__(self) -> None:
        """Check the values."""
        if self.threshold != "roc" and not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; expected a cosine between 0 and 1, or roc")
        if not self.order or len(set(self.order)) < len(self.order):
            raise ValueError(f"order is {self.order}; expected published, greedy or both")
        if self.tokens < 1:
            raise ValueError(f"tokens is {self.tokens}; expected a whole number of 1 or more")
        if self.ce_points < 2:
            raise ValueError(f"ce_points is {self.ce_points}; expected at least 2, the ends of a path")
