"""Where training starts."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def geometric_median(x: Float[Tensor, "batch d"], steps: int = 100, tolerance: float = 1e-6) -> Float[Tensor, "d"]:
    """The point m minimising Σ_r ‖x_r − m‖, by Weiszfeld's iteration m ← Σ x_r/‖x_r − m‖ / Σ 1/‖x_r − m‖.

    Unlike the mean it is not pulled away by a few rows of huge norm (attention sinks).
    """
    x = x.double()
    median = x.mean(0)
    for _ in range(steps):
        weight = 1 / torch.linalg.vector_norm(x - median, dim=1).clamp_min(1e-12)
        new = (weight[:, None] * x).sum(0) / weight.sum()
        moved = torch.linalg.vector_norm(new - median)
        median = new
        if moved <= tolerance * torch.linalg.vector_norm(median).clamp_min(1e-12):
            break
    return median.float()
