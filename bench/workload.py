"""The work every contender is given: planted activations, and one part-trained dictionary to start from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of one task: width of the activations, latents, tokens in a batch, active latents per token."""

    d_in: int = 768
    n_latents: int = 12_288
    batch: int = 4_096
    k: int = 32

    @property
    def flops(self) -> float:
        """Floating-point operations of the encoder product x @ W_enc."""
        return 2.0 * self.batch * self.d_in * self.n_latents


@dataclass(frozen=True)
class Workload:
    """Batches, and the weights that every contender copies before its first step.

    All start alike, near the planted dictionary, so that all have the same number of active latents: from random
    weights a ReLU would have half of its latents active and a JumpReLU whatever its first threshold gives.
    """

    shape: Shape
    batches: list[Tensor]
    "(batch, d_in) each, scaled so that E‖x‖² = d_in"
    enc_rows: Tensor
    "(n_latents, d_in): the encoder's directions"
    dec_rows: Tensor
    "(n_latents, d_in): unit decoder rows"
    b_dec: Tensor
    "(d_in,): the mean activation"
    threshold: float
    "k pre-activations per token lie above it: a JumpReLU's θ, and minus a ReLU's encoder bias"
    dead: Tensor
    "(n_latents,) bool: latents whose direction never occurs, with encoder rows too short to fire"


def make(shape: Shape, dead_fraction: float = 0.0, n_batches: int = 3, seed: int = 0) -> Workload:
    """Activations of planted unit directions with Zipf rates, 1.2 k to a token, log-normal sizes, a mean and noise."""
    g = torch.Generator().manual_seed(seed)
    n, d = shape.n_latents, shape.d_in
    planted = torch.nn.functional.normalize(torch.randn(n, d, generator=g), dim=1)
    rate = 1 / (torch.randperm(n, generator=g).double() + 20)
    dead = torch.zeros(n, dtype=torch.bool)
    dead[torch.randperm(n, generator=g)[: int(dead_fraction * n)]] = True
    rate[dead] = 0
    below = torch.cumsum(rate / rate.sum(), 0)
    mean = 0.1 * torch.randn(d, generator=g)
    batches = [_draw(shape, planted, below, g) + mean for _ in range(n_batches)]
    scale = math.sqrt(d / float(torch.stack([x.square().sum(1).mean() for x in batches]).mean()))
    for x in batches:
        x *= scale
    # 0.3 of a row's length is noise: the dictionary is found, but there is something left to learn.
    dec_rows = torch.nn.functional.normalize(planted + 0.3 / math.sqrt(d) * torch.randn(n, d, generator=g), dim=1)
    enc_rows = dec_rows.clone()
    enc_rows[dead] *= 0.05
    b_dec = torch.stack([x.mean(0) for x in batches]).mean(0)
    some = batches[0][:512]
    pre = (some - b_dec) @ enc_rows.t()
    threshold = float(torch.topk(pre.flatten(), shape.k * len(some), sorted=False).values.min())
    return Workload(shape, batches, enc_rows, dec_rows, b_dec, threshold, dead)


def _draw(shape: Shape, planted: Tensor, below: Tensor, g: torch.Generator) -> Tensor:
    count = torch.poisson(torch.full((shape.batch,), 1.2 * shape.k), generator=g).long().clamp_min(1)
    total = int(count.sum())
    chosen = torch.searchsorted(below, torch.rand(total, generator=g, dtype=torch.float64))
    size = torch.exp(0.35 * torch.randn(total, generator=g))
    x = torch.nn.functional.embedding_bag(
        chosen.clamp_max(len(planted) - 1), planted, count.cumsum(0) - count, per_sample_weights=size, mode="sum"
    )
    return x + 0.05 * torch.randn(shape.batch, shape.d_in, generator=g)


def fvu(x: Tensor, x_hat: Tensor) -> float:
    """Fraction of variance unexplained, Σ‖x − x̂‖² / Σ‖x − x̄‖²."""
    return float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())
