"""Gradients that autograd left on each of several processes, made those of the whole."""

from __future__ import annotations

import math

import torch

from matryo.sae.nn import SAE


@torch.no_grad()
def sum_gradients(sae: SAE) -> None:
    """Add up what other rows gave, and what other latents gave to b_dec."""
    mesh = sae.mesh
    if mesh.alone:
        return
    if sae.b_dec.grad is None:  # the first process's latents decode with it
        sae.b_dec.grad = torch.zeros_like(sae.b_dec)
    mesh.latents.sum_(sae.b_dec.grad)
    for parameter in sae.parameters():
        if parameter.grad is not None:
            mesh.rows.sum_(parameter.grad)


@torch.no_grad()
def clip_gradients(sae: SAE, clip: float) -> None:
    """Bring the norm of all gradients together to at most `clip`."""
    if sae.mesh.latents.size == 1:
        torch.nn.utils.clip_grad_norm_(sae.parameters(), clip, foreach=True)
        return
    squares = sae.b_dec.new_zeros(2, dtype=torch.float64)
    for name, parameter in sae.named_parameters():
        assert parameter.grad is not None
        squares[int(name == "b_dec")] += parameter.grad.double().square().sum()
    norm = math.sqrt(float(sae.mesh.latents.sum_(squares[:1])) + float(squares[1]))
    factor = min(1.0, clip / (norm + 1e-6))
    for parameter in sae.parameters():
        assert parameter.grad is not None
        parameter.grad.mul_(factor)
