"""A batch whose compiled gradients are asked for: random entries, weights and upstream gradients."""

import torch
from torch import Tensor

from matryo.sae.kernels import Entries
from matryo.sae.kernels.fused import WeightGradient

BATCH, D_IN, D_OUT, N = 23, 7, 6, 141  # more latents than two threads' first chunks of 64


class Problem:
    def __init__(self, dtype: torch.dtype, density: float = 0.1, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=g, dtype=torch.float64).to(dtype)

        chosen = torch.rand(BATCH, N, generator=g) < density
        chosen[4] = False
        chosen[:, 9] = False
        chosen[:, 70] = True
        row, latent = chosen.nonzero().unbind(1)
        self.entries = Entries.from_pairs(row, latent, normal(len(row)).abs(), BATCH, N)
        self.x, self.target = normal(BATCH, D_IN), normal(BATCH, D_OUT)
        self.W_enc, self.b_enc = normal(N, D_IN).t(), normal(N)
        rows = normal(N, D_OUT)
        self.W_dec, self.b_dec = rows / rows.norm(dim=1, keepdim=True), normal(D_OUT)
        self.z = self.entries.value * (torch.rand(len(row), generator=g) < 0.8)
        self.grad_pre = normal(len(row))

    def gradient(self, slope: Tensor, levels: tuple[int, ...], **more) -> WeightGradient:
        e = self.entries
        return WeightGradient(self.W_enc, self.W_dec, self.x, e, self.z, self.grad_pre, slope, levels, **more)


def close(ours: Tensor, theirs: Tensor, limit: float) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).norm()) <= limit * max(float(theirs.norm()), 1e-30)
