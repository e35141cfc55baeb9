"""Matryoshka levels: which prefixes of the dictionary the objective asks to reconstruct, and with what weight."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from matryo.sae.nn.config import SAEConfig


def draw_levels(config: SAEConfig, generator: torch.Generator | None = None) -> tuple[int, ...]:
    """The prefix lengths of one batch, ascending, the last one n_latents.

    Fixed levels are returned as they are. Sampled ones follow Bussmann et al. (2025, appendix C.1): n_latents always,
    the others drawn without replacement from a Pareto(0.5) truncated to 1 … n_latents − 1, that is
    P(l) = (√l − √(l−1)) / √(n_latents − 1).
    """
    if config.levels != "sampled":
        return config.lengths
    longest = config.n_latents - 1
    wanted = min(config.sampled_levels - 1, longest)
    drawn: set[int] = set()
    while len(drawn) < wanted:
        # One at a time, discarding repeats: successive sampling without replacement by inverting P(≤ l) = √(l/longest).
        u = float(torch.rand((), generator=generator, dtype=torch.float64))
        drawn.add(min(longest, max(1, int(-(-(u * u * longest) // 1)))))
    return (*sorted(drawn), config.n_latents)


def level_weights(config: SAEConfig, n_levels: int, like: Tensor) -> Float[Tensor, "levels"]:
    """The weights w_l of the levels, Σ w_l = 1; equal unless the config gives others."""
    weights = torch.tensor(config.level_weights or (1.0,) * n_levels, dtype=torch.float64)
    return (weights / weights.sum()).to(like)
