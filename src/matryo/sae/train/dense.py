"""A step with dense products, some rows at a time: for rules under which a good part of all latents is active."""

from __future__ import annotations

import torch
from torch import Tensor

from matryo.sae.kernels import total_of
from matryo.sae.nn import SAE, Gated, Loss, ReLU
from matryo.sae.nn.auxiliary import aux_loss
from matryo.sae.nn.levels import draw_levels, level_weights

DENSE_ABOVE = 0.16
"""Density from which five dense products cost less than lists of entries (measured: docs/log.md, 2026-11-25)."""

CHUNK_VALUES = 2**24
"""Entries of (rows, n_latents) held at a time: 64 MiB in float32."""


def dense_step(
    sae: SAE,
    x: Tensor,
    target: Tensor | None,
    dead: Tensor,
    generator: torch.Generator,
    sparsity_scale: float,
) -> Loss:
    """`SAE.loss` of a batch and its backward pass: every parameter's gradient is left in .grad.

    The loss is a sum over tokens, so chunks of rows are summed up; only the auxiliary loss, whose scale is the whole
    batch's, follows at the end.
    """
    target = sae._checked(x, target).detach()
    centred, batch, mesh = sae._centred(x), sae.mesh.batch(x), sae.mesh
    elements = batch * target.shape[1]
    levels = draw_levels(sae.config, generator)
    weights = level_weights(sae.config, len(levels), target)
    sums = _Sums(sae, sae._here(levels), weights * (2 / elements))
    residual, l1_weight = torch.empty_like(target), sparsity_scale * sae.config.l1 / (batch * sae.config.d_in)
    for part in torch.arange(len(x)).split(max(1, CHUNK_VALUES // sae.config.n_latents)):
        rows = slice(int(part[0]), int(part[-1]) + 1)
        residual[rows] = sums.add(centred[rows], target[rows], l1_weight)
    sums.leave_gradients()
    aux = aux_loss(sae, centred, residual, dead)
    if aux.requires_grad:
        (sae.config.aux_weight * aux).backward()
    per_level, of_gate = mesh.rows.sum_(sums.squares) / elements
    sparsity = l1_weight * mesh.all.sum_(sums.l1) + (weights * of_gate).sum()
    total = (weights * per_level).sum() + sae.config.aux_weight * aux.detach() + sparsity
    return Loss(
        total=total, levels=levels, per_level=per_level, aux=aux.detach(), sparsity=sparsity, residual=residual,
        entries=None, active=total_of(sums.active, mesh.all, x) / batch,
        fired=mesh.fired(sums.fired), smallest=None,
    )  # fmt: skip


class _Sums:
    """Gradients and losses of the chunks so far."""

    def __init__(self, sae: SAE, levels: tuple[int, ...], scale: Tensor) -> None:
        if not isinstance(sae, ReLU | Gated):
            raise TypeError(f"a {sae.config.kind} SAE has no dense step; expected relu or gated")
        self.sae, self.scale = sae, scale
        self.spans = list(zip((0, *levels), levels, strict=False))
        self.norms = None if sae.unit_rows else torch.linalg.vector_norm(sae.W_dec.detach(), dim=1).requires_grad_()
        self.W_enc = torch.zeros_like(sae.W_enc.t(), memory_format=torch.contiguous_format)
        self.W_dec, self.b_enc, self.b_dec = map(torch.zeros_like, (sae.W_dec, sae.b_enc, sae.b_dec))
        self.squares = sae.W_dec.new_zeros(2, len(levels))
        self.fired = torch.zeros_like(sae.b_enc, dtype=torch.bool)
        self.active, self.l1 = 0, sae.W_dec.new_zeros(())

    def add(self, centred: Tensor, target: Tensor, l1_weight: float) -> Tensor:
        """Take in some rows; their residual is returned."""
        pre = torch.addmm(self.sae.b_enc.detach(), centred, self.sae.W_enc.detach()).requires_grad_()
        z, gate, l1 = self.sae._dense(pre, self.norms)
        grad_z, residual = self._decode(z.detach(), target, 0, learn=True)
        roots, slopes = [z, l1], [grad_z, torch.full_like(l1, l1_weight)]
        if gate is not None:
            roots.append(gate)
            slopes.append(self._decode(gate.detach(), target, 1, learn=False)[0])
        torch.autograd.backward(roots, slopes)
        assert pre.grad is not None
        self.W_enc.addmm_(pre.grad.t(), centred)
        self.b_enc += pre.grad.sum(0)
        self.l1 += l1.detach()
        on = z.detach() > 0
        self.fired |= on.any(0)
        self.active += int(on.sum())
        return residual

    def _decode(self, z: Tensor, target: Tensor, which: int, learn: bool) -> tuple[Tensor, Tensor]:
        """∂L/∂z and the residual of one set of latents; decoder gradients are summed where it is to learn from them."""
        latents, W_dec, slopes = self.sae.mesh.latents, self.sae.W_dec.detach(), []
        error = self.sae.b_dec.detach() - target
        for level, (low, high) in enumerate(self.spans):
            # Over processes with other latents the sum of what each adds, the error so far added by the first.
            error = torch.addmm(error, z[:, low:high], W_dec[low:high], beta=1 if latents.rank == 0 else 0)
            latents.sum_(error)
            self.squares[which, level] += error.square().sum()
            slopes.append(self.scale[level] * error)
        for level in range(len(slopes) - 2, -1, -1):
            slopes[level] += slopes[level + 1]
        grad_z = torch.empty_like(z)
        for slope, (low, high) in zip(slopes, self.spans, strict=True):
            grad_z[:, low:high] = slope @ W_dec[low:high].t()
            if learn:
                self.W_dec[low:high].addmm_(z[:, low:high].t(), slope)
        if learn and latents.rank == 0:
            self.b_dec += slopes[0].sum(0)
        return grad_z, -error

    def leave_gradients(self) -> None:
        """Put the sums where an optimiser looks for them."""
        sae = self.sae
        if self.norms is not None and self.norms.grad is not None:
            rows = sae.W_dec.detach()
            self.W_dec += rows * (self.norms.grad / self.norms.detach().clamp_min(1e-30))[:, None]
        if not sae.config.transcoder:
            self.b_dec -= sae.W_enc.detach() @ self.b_enc
        sums = {"W_enc": self.W_enc.t(), "W_dec": self.W_dec, "b_enc": self.b_enc, "b_dec": self.b_dec}
        for name, grad in sums.items():
            parameter = getattr(sae, name)
            parameter.grad = grad if parameter.grad is None else parameter.grad + grad
