"""SAEs of every kind on the same random activations. All sizes differ."""

import torch
from torch import Tensor

from matryo.sae.nn import KINDS, SAE, SAEConfig, build

D, TOKENS, N_SMALL, N_LARGE = 12, 157, 17, 29
ALL = (*KINDS, "prefix")


def activations(seed: int = 2, tokens: int = TOKENS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(40, D, generator=generator, dtype=torch.float64)
    code = torch.randn(tokens, 40, generator=generator, dtype=torch.float64).abs()
    return (code * (torch.rand(tokens, 40, generator=generator) < 0.1)) @ basis + 0.5


def sae_of(kind: str, n_latents: int, seed: int, dtype: torch.dtype = torch.float64) -> SAE:
    """An SAE in inference mode with nothing at its initial value; a prefix is cut from one with levels."""
    if kind == "prefix":
        config = SAEConfig(kind="batch_topk", d_in=D, n_latents=41, k=5, levels=(n_latents, 41), seed=seed)
        return _moved(config, seed, dtype).prefix(n_latents).eval()
    return _moved(SAEConfig(kind=kind, d_in=D, n_latents=n_latents, k=4, seed=seed), seed, dtype)


def _moved(config: SAEConfig, seed: int, dtype: torch.dtype) -> SAE:
    sae = build(config).to(torch.float64)
    generator = torch.Generator().manual_seed(100 + seed)
    with torch.no_grad():
        for name, value in sae.named_parameters():
            noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
            value.copy_(0.3 + 0.5 * noise) if name == "threshold" else value.add_(0.2 * (noise - 0.5))
    sae.calibrate([activations(9)])
    return sae.to(dtype).eval()
