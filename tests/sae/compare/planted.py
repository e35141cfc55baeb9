"""A smaller and a larger SAE of a world whose features are known. All sizes differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from matryo.sae.nn import JumpReLU, SAEConfig, build

D, OLD, NEW = 61, 13, 9
PERTURBED = tuple(range(4, OLD))
"""Features of the smaller SAE that the larger has with another direction; 0 … 3 it has split in two."""


@dataclass(frozen=True)
class World:
    """x = Σ a_i g_i + 0.3 with orthonormal g, each active on a tenth of the tokens; the first OLD have latents in
    both."""

    small: JumpReLU
    large: JumpReLU
    x: Tensor
    novel: Tensor
    "Which latents of the larger stand for new features."
    parent: Tensor
    "The latent of the smaller that each other latent of the larger comes from; −1 for new ones."


def plant(seed: int = 0, tokens: int = 2_003) -> World:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))[0]
    features, context = basis[: OLD + NEW], basis[OLD + NEW : OLD + NEW + 4]
    active = torch.rand(tokens, OLD + NEW, generator=generator) < 0.1
    a = active * (0.5 + torch.rand(tokens, OLD + NEW, generator=generator, dtype=torch.float64))
    side = (torch.rand(tokens, 4, generator=generator) < 0.5).double() * 2 - 1
    # Features 0 … 3 come with a small sign of their context, by which their halves tell each other apart.
    x = a @ features + 0.2 * (a[:, :4] * side) @ context + 0.3
    enc, dec, bias, theta, parent = [], [], [], [], []

    def latent(read, write, of, b=0.0, t=0.1):
        for store, value in zip((enc, dec, bias, theta, parent), (read, write, b, t, of), strict=True):
            store.append(value)

    for i in range(OLD):
        latent(features[i], features[i], i)
    small = assemble(enc, dec, bias, theta)
    enc, dec, bias, theta, parent = [], [], [], [], []
    for i in range(4):
        for sign in (1.0, -1.0):
            # a (1 + 0.2 s) · 1/1.04 per unit of its own direction; the other half reads a (1 − …) below its threshold
            own = features[i] + sign * 0.2 * context[i]
            latent(features[i] + sign * 5 * context[i], own, i, t=1e-9)
            scale = 1 / 2
            enc[-1] = enc[-1] * scale
    for i in PERTURBED:
        noise = torch.randn(D, generator=generator, dtype=torch.float64)
        noise -= basis[: OLD + NEW + 4].T @ (basis[: OLD + NEW + 4] @ noise)
        latent(features[i], features[i] + 0.3 * noise / noise.norm(), i)
    for i in range(OLD, OLD + NEW):
        latent(features[i], features[i], -1)
    mixed = torch.randperm(len(enc), generator=generator).tolist()
    enc, dec, bias, theta, parent = ([part[i] for i in mixed] for part in (enc, dec, bias, theta, parent))
    large = assemble(enc, dec, bias, theta)
    where = torch.tensor(parent)
    return World(small, large, x, where < 0, where)


def assemble(enc, dec, bias, theta) -> JumpReLU:
    sae = build(SAEConfig(kind="jumprelu", d_in=D, n_latents=len(enc), k=3)).double()
    assert isinstance(sae, JumpReLU)
    with torch.no_grad():
        sae.W_enc.copy_(torch.stack(enc, 1))
        sae.W_dec.copy_(torch.stack(dec))
        sae.b_enc.copy_(torch.tensor(bias))
        sae.threshold.copy_(torch.tensor(theta))
        sae.b_dec.fill_(0.3)
    return sae.eval()
