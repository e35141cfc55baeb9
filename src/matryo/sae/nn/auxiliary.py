"""The auxiliary loss that brings dead latents back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matryo.sae.kernels import Mesh, Watch, mark_row_largest, shared_sum, total_of

if TYPE_CHECKING:
    from matryo.sae.kernels.fused import DenseRows
    from matryo.sae.nn.base import SAE


def aux_loss(
    sae: SAE,
    centred: Float[Tensor, "batch d_in"],
    residual: Float[Tensor, "batch d_out"],
    dead: Bool[Tensor, "n_latents"] | None,
) -> Float[Tensor, ""]:
    """How much of the residual the dead latents leave unexplained; 0 when none is dead or e is alike for all tokens.

    With e (batch, d_out) the detached residual of the full reconstruction, and for each token the aux_k dead latents of
    largest pre-activation:

        ê = Σ_j relu(pre_j) W_dec[j],     aux = mean‖e − ê‖² / mean‖e − ē‖²,  ē the batch mean of e.

    The relu passes its gradient straight through, so that the encoder of a dead latent learns even where its
    pre-activation is negative (a plain relu would leave a latent that is negative everywhere dead for ever). Only the
    dead columns are computed.

    Reference: Gao et al., "Scaling and evaluating sparse autoencoders" (2024), without the straight-through part.
    """
    mesh = sae.mesh
    n_dead = 0 if dead is None or sae.config.aux_weight == 0 else total_of(int(dead.sum()), mesh.latents, residual)
    if dead is None or not n_dead:
        return residual.new_zeros(())
    index = dead.nonzero().view(-1)
    W_enc, W_dec = sae.W_enc.t()[index], sae.W_dec[index]
    bias = sae.b_enc[index]
    if not sae.config.transcoder:
        # Zero in value; carries the gradient of b_dec, which `centred` has already subtracted.
        bias = bias + W_enc @ (sae.b_dec.detach() - sae.b_dec)
    pre = torch.addmm(bias, centred, W_enc.t())
    aux_k = sae.config.most_aux
    if aux_k < n_dead:
        if mesh.latents.size > 1:
            pre = pre * mark_row_largest(pre.detach(), aux_k, mesh.latents)
        else:
            top = torch.topk(pre, aux_k, dim=1, sorted=False)
            pre = torch.zeros_like(pre).scatter(1, top.indices, top.values)
    z = pre + (torch.relu(pre) - pre).detach()
    error = (residual - shared_sum(z @ W_dec, mesh.latents)).square().sum(1)
    error = error.mean() if mesh.rows.size == 1 else shared_sum(error.sum(), mesh.rows) / mesh.batch(residual)
    return error * _inverse_spread(residual, mesh)


def aux_with_gradient(
    sae: SAE,
    watch: Watch,
    centred: Float[Tensor, "batch d_in"],
    residual: Float[Tensor, "batch d_out"],
) -> tuple[Float[Tensor, ""], DenseRows]:
    """`aux_loss` with the gradients of aux_weight · aux, from the dead columns' pre-activations in `watch`.

    The four products over the dead columns are all there is to it: ê, ∂/∂z, ∂/∂W_dec, ∂/∂W_enc. Overwrites `watch.pre`.
    """
    from matryo.sae.kernels.fused import DenseRows, keep_largest, mask_columns

    dead, z, mesh = watch.column, watch.pre, sae.mesh
    batch, most = mesh.batch(residual), sae.config.most_aux
    W_dec = sae.W_dec.detach()[dead]
    if mesh.latents.size > 1:
        shared = mark_row_largest(z, most, mesh.latents)
        chosen = shared.to(torch.uint8)
        z.relu_().mul_(shared)
    else:
        chosen = keep_largest(z, most)
    slope = torch.addmm(residual, z, W_dec, beta=-1 if mesh.latents.rank == 0 else 0)
    mesh.latents.sum_(slope)  # ê − e
    inverse_spread = _inverse_spread(residual, mesh)
    value = mesh.rows.sum_(_squares(slope)) / batch * inverse_spread
    slope *= 2 * sae.config.aux_weight / batch * inverse_spread
    grad_dec = z.t() @ slope
    grad_pre = torch.mm(slope, W_dec.t(), out=z)
    grad_b = mask_columns(grad_pre, chosen)
    return value, DenseRows(dead, grad_pre.t() @ centred, grad_dec, grad_b)


def _inverse_spread(residual: Float[Tensor, "batch d_out"], mesh: Mesh) -> Float[Tensor, ""]:
    """1 / mean‖e − ē‖²; 0 where that is nothing but rounding, as for a batch of one token."""
    batch = mesh.batch(residual)
    centre = mesh.rows.sum_(residual.sum(0)) / batch
    spread = mesh.rows.sum_(_squares(residual - centre)) / batch
    limits = torch.finfo(spread.dtype)
    varies = spread > limits.eps * mesh.rows.sum_(_squares(residual)) / batch
    return varies / spread.clamp_min(limits.tiny)


def _squares(x: Float[Tensor, "batch d_out"]) -> Float[Tensor, ""]:
    """Σ x², without an array of squares: on a CPU its memory costs more than the sum."""
    return torch.linalg.vector_norm(x).square()
