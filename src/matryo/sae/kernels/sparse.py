"""Encoder and decoder as differentiable functions of the active entries only.

Gradients with respect to weights are gathered latent by latent, with respect to activations entry by entry; no product
here has (batch, n_latents) elements.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matryo.sae.kernels import switch
from matryo.sae.kernels.entries import Entries
from matryo.sae.kernels.mesh import Mesh


def pre_acts_at(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in n_latents"],
    b: Float[Tensor, "n_latents"],
    b_in: Float[Tensor, "d_in"] | None,
    centred: Float[Tensor, "batch d_in"],
    entries: Entries,
) -> Float[Tensor, "entries"]:
    """pre_e = (x_r − b_in)·W[:, j] + b_j for every entry e = (r, j), differentiable in x, W, b and b_in.

    The values are those the selection computed (`entries.value`) from `centred` = x − b_in; only the backward pass
    does work, and x itself is not read.
    """
    return _PreActs.apply(x, W, b, b_in, centred, entries)  # pyright: ignore[reportReturnType]


class _PreActs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W: Tensor, b: Tensor, b_in: Tensor | None, centred: Tensor, entries: Entries
    ) -> Tensor:
        ctx.save_for_backward(centred, W)
        ctx.entries = entries
        return entries.value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grads
        centred, W = ctx.saved_tensors
        entries: Entries = ctx.entries
        grad_b = _sums_by_latent(grad, entries)
        grad_W = grad_x = grad_b_in = None
        if ctx.needs_input_grad[1]:
            order, start = entries.by_latent
            grad_W = _weighted_sums(centred, entries.row[order], start, grad[order]).t()
        if ctx.needs_input_grad[0]:
            grad_x = _weighted_sums(W.t(), entries.latent, entries.row_start, grad)
        if ctx.needs_input_grad[3]:
            grad_b_in = -(W @ grad_b)
        return grad_x, grad_W, grad_b, grad_b_in, None, None


def at_latents(of_latent: Float[Tensor, "n_latents"], entries: Entries) -> Float[Tensor, "entries"]:
    """The number of every entry's latent, differentiable.

    Unlike that of indexing, which several threads add up in any order, its gradient is the same bit for bit every time.
    """
    return _AtLatents.apply(of_latent, entries)  # pyright: ignore[reportReturnType]


class _AtLatents(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, of_latent: Tensor, entries: Entries) -> Tensor:
        ctx.entries = entries
        return of_latent[entries.latent]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _sums_by_latent(grads[0], ctx.entries), None


def decode(
    value: Float[Tensor, "entries"],
    entries: Entries,
    W_dec: Float[Tensor, "n_latents d_out"],
    b_dec: Float[Tensor, "d_out"],
) -> Float[Tensor, "batch d_out"]:
    """x̂_r = b_dec + Σ_{e in row r} value_e · W_dec[latent_e], differentiable in value, W_dec and b_dec."""
    return _weighted_sums(W_dec, entries.latent, entries.row_start, value) + b_dec


def decode_losses(
    value: Float[Tensor, "entries"],
    entries: Entries,
    W_dec: Float[Tensor, "n_latents d_out"],
    b_dec: Float[Tensor, "d_out"],
    target: Float[Tensor, "batch d_out"],
    levels: tuple[int, ...],
    mesh: Mesh = Mesh(),  # noqa: B008 - frozen
) -> tuple[Float[Tensor, "levels"], Float[Tensor, "batch d_out"]]:
    """Squared errors of all nested reconstructions, and the residual of the full one.

    For each level m in `levels` (ascending, the last one n_latents):

        x̂_m = b_dec + Σ_{j<m} value_j W_dec[j],     loss_m = mean_batch ‖target − x̂_m‖² / d_out.

    Returns (losses, target − x̂ detached). Differentiable in value, W_dec, b_dec and target, through the losses. Over a
    mesh these are the losses of the whole; `levels` then count this process's latents, and may repeat or be 0.
    """
    return _DecodeLosses.apply(value, W_dec, b_dec, target, entries, levels, mesh)  # pyright: ignore[reportReturnType]


class _DecodeLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        target: Tensor,
        entries: Entries,
        levels: tuple[int, ...],
        mesh: Mesh,
    ) -> tuple[Tensor, Tensor]:
        # A bag is one level's share of one row: entries are sorted by row and latent, so bags are contiguous.
        bag, bag_start = _bags(entries, levels)
        with torch.enable_grad():
            weight = value.detach().requires_grad_(ctx.needs_input_grad[0])
            shares = _weighted_sums(W_dec.detach(), entries.latent, bag_start, weight)
        residual = shares.detach().view(len(target), len(levels), target.shape[1]).neg()
        mesh.latents.sum_(residual)
        residual[:, 0] += target - b_dec
        for level in range(1, len(levels)):
            residual[:, level] += residual[:, level - 1]
        ctx.elements = mesh.batch(target) * target.shape[1]
        losses = mesh.rows.sum_(residual.square().sum((0, 2)) / ctx.elements)
        ctx.save_for_backward(value, residual)
        ctx.entries, ctx.bag, ctx.shares, ctx.weight = entries, bag, shares, weight
        full = residual[:, -1].clone() if len(levels) > 1 else residual[:, 0]
        ctx.mark_non_differentiable(full)
        return losses, full

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        value, residual = ctx.saved_tensors
        entries: Entries = ctx.entries
        rows, n_levels, d_out = residual.shape
        # slope[r, g] = ∂L/∂(share g of row r): level g's latents are part of every level from g on.
        slope = residual * (-2.0 / ctx.elements * grads[0])[None, :, None]
        for level in range(n_levels - 2, -1, -1):
            slope[:, level] += slope[:, level + 1]
        flat = slope.view(rows * n_levels, d_out)
        grad_value = grad_W = grad_b = grad_target = None
        if ctx.needs_input_grad[0]:
            (grad_value,) = torch.autograd.grad(ctx.shares, ctx.weight, flat)
        if ctx.needs_input_grad[1]:
            order, start = entries.by_latent
            grad_W = _weighted_sums(flat, ctx.bag[order], start, value[order])
        if ctx.needs_input_grad[2]:
            grad_b = slope[:, 0].sum(0)
        if ctx.needs_input_grad[3]:
            grad_target = -slope[:, 0]
        return grad_value, grad_W, grad_b, grad_target, None, None, None


def _bags(entries: Entries, levels: tuple[int, ...]) -> tuple[Int[Tensor, "entries"], Int[Tensor, "bags_and_one"]]:
    """For every entry the bag row·len(levels) + level index, and where each bag's entries start."""
    if len(levels) == 1:
        return entries.row, entries.row_start
    ends = torch.tensor(levels, device=entries.latent.device)
    bag = entries.row * len(levels) + torch.searchsorted(ends, entries.latent, right=True)
    n_bags = entries.n_rows * len(levels)
    start = torch.zeros(n_bags + 1, dtype=torch.long, device=bag.device)
    torch.cumsum(torch.bincount(bag, minlength=n_bags), 0, out=start[1:])
    return bag, start


def _sums_by_latent(of_entry: Float[Tensor, "entries"], entries: Entries) -> Float[Tensor, "n_latents"]:
    """Σ over each latent's entries, the same bit for bit every time."""
    if of_entry.device.type == "cpu":
        return of_entry.new_zeros(entries.n_latents).index_add_(0, entries.latent, of_entry)
    # On a GPU index_add_ adds in any order; the entries of a bag are added one after another.
    order, start = entries.by_latent
    return _weighted_sums(of_entry[:, None], order, start, torch.ones_like(of_entry))[:, 0]


def _weighted_sums(
    table: Float[Tensor, "items d"],
    index: Int[Tensor, "entries"],
    start: Int[Tensor, "bags_and_one"],
    weight: Float[Tensor, "entries"],
) -> Float[Tensor, "bags d"]:
    """Σ over each bag's entries of weight · table[index], by the backend that `switch.use` chose."""
    if switch.chosen() == "triton":
        from matryo.sae.kernels.triton_sums import weighted_sums

        return weighted_sums(table, index, start, weight)
    return torch.nn.functional.embedding_bag(
        index, table, start, mode="sum", per_sample_weights=weight, include_last_offset=True
    )
