"""One training step's gradients without autograd and without dense products: what the compiled loops offer PyTorch.

Reference: `decode_losses` and `pre_acts_at` with autograd, whose gradients these are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from matryo.sae.kernels.compiled import latents, rows, threads
from matryo.sae.kernels.entries import Entries
from matryo.sae.kernels.mesh import ALONE, Group
from matryo.sae.kernels.scratch import scratch

Moments = tuple[Tensor, Tensor]
"""Adam's first and second moments of one weight matrix, rows by latent; bfloat16 is allowed beside float32 weights."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """A batch decoded: losses of the levels and the gradients of L = Σ_l w_l loss_l.

    loss_l = mean_batch ‖target − x̂_l‖² / d_out; slope[l] = ∂L/∂x̂ as the latents of level l feel it, all later levels
    included.
    """

    per_level: Float[Tensor, "levels"]
    slope: Float[Tensor, "levels batch d_out"]
    grad_z: Float[Tensor, "entries"]
    grad_b_dec: Float[Tensor, "d_out"]
    residual: Float[Tensor, "batch d_out"] | None


def decode_with_gradient(
    z: Float[Tensor, "entries"],
    entries: Entries,
    W_dec: Float[Tensor, "n_latents d_out"],
    b_dec: Float[Tensor, "d_out"],
    target: Float[Tensor, "batch d_out"],
    levels: tuple[int, ...],
    weights: Float[Tensor, "levels"],
    *,
    batch: int | None = None,
    want_residual: bool = False,
    slope: Float[Tensor, "levels batch d_out"] | None = None,
    latents: Group = ALONE,
) -> Decoded:
    """Decode a batch and differentiate its (nested) squared errors, in one pass over the entries of each row.

    Args:
        z: latents at the entries, detached.
        entries: which they are; values are not read.
        W_dec: decoder rows, contiguous.
        b_dec: decoder bias.
        target: what to reconstruct, contiguous.
        levels: prefix lengths, ascending, the last one n_latents.
        weights: w_l.
        batch: number of tokens that losses are means over, where these rows are only a part of them.
        want_residual: also return target − x̂.
        slope: memory to use for the result's slope.
        latents: processes that hold other latents, whose reconstructions are summed; `levels` then count this
            process's latents, and may repeat or be 0.
    """
    parts, n_rows, d_out = threads(), len(target), target.shape[1]
    per = (batch or n_rows) * d_out
    slope = target.new_empty(len(levels), n_rows, d_out) if slope is None else slope
    if latents.size > 1:
        return _decode_shares(z, entries, W_dec, b_dec, target, levels, weights, per, slope, latents)
    residual = target.new_empty(n_rows if want_residual else 0, d_out)
    grad_z, squares = torch.empty_like(z), np.zeros((parts, len(levels)))
    grad_b = target.new_zeros(parts, d_out)
    rows.decode_rows(
        _array(target), _array(b_dec), _array(W_dec), _array(entries.row_start), _array(entries.latent), _array(z),
        np.asarray(levels), _array(weights * (2 / per)), _array(slope), _array(grad_z), squares, _array(grad_b),
        _array(residual),
    )  # fmt: skip
    per_level = torch.from_numpy(squares.sum(0) / per).to(target)
    return Decoded(per_level, slope, grad_z, grad_b.sum(0), residual if want_residual else None)


def _decode_shares(
    z: Tensor, entries: Entries, W_dec: Tensor, b_dec: Tensor, target: Tensor, levels: tuple[int, ...],
    weights: Tensor, per: int, slope: Tensor, group: Group,
) -> Decoded:  # fmt: skip
    """`decode_with_gradient` over a group: what each level of this process's latents adds, summed, then the errors."""
    ends, which = np.asarray(levels), (_array(entries.row_start), _array(entries.latent))
    rows.decode_shares(*which, _array(z), _array(W_dec), ends, _array(slope), threads())
    group.sum_(slope)
    slope[0] += b_dec - target
    for level in range(1, len(levels)):
        slope[level] += slope[level - 1]
    per_level = torch.stack([error.square().sum() for error in slope]) / per
    residual = -slope[-1]
    slope *= (weights * (2 / per))[:, None, None]
    for level in range(len(levels) - 2, -1, -1):
        slope[level] += slope[level + 1]
    grad_z = torch.empty_like(z)
    rows.read_slopes(*which, _array(W_dec), ends, _array(slope), _array(grad_z), threads())
    return Decoded(per_level, slope, grad_z, slope[0].sum(0), residual)


@dataclass(frozen=True, eq=False)
class DenseRows:
    """Gradients that come as whole rows, of some latents: of their encoder rows, decoder rows and encoder biases."""

    latent: Int[Tensor, "some"]
    W_enc: Float[Tensor, "some d_in"]
    W_dec: Float[Tensor, "some d_out"]
    b_enc: Float[Tensor, "some"]


class WeightGradient:
    """The gradient of W_enc, W_dec and b_enc as sums over entries, formed latent by latent when it is used.

        ∂L/∂W_enc[:, j] = Σ_r grad_pre_rj x_r,    ∂L/∂b_enc[j] = Σ_r grad_pre_rj,
        ∂L/∂W_dec[j] = Σ_r z_rj slope[level(j), r] + pull_j W_dec[j],     plus the dense rows of `more`.

    `pull` is the gradient of a penalty on row norms, divided by the norm.
    """

    def __init__(
        self,
        W_enc: Float[Tensor, "d_in n_latents"],
        W_dec: Float[Tensor, "n_latents d_out"],
        x: Float[Tensor, "batch d_in"],
        entries: Entries,
        z: Float[Tensor, "entries"],
        grad_pre: Float[Tensor, "entries"],
        slope: Float[Tensor, "levels batch d_out"],
        levels: tuple[int, ...],
        pull: Float[Tensor, "n_latents"] | None = None,
        more: DenseRows | None = None,
    ) -> None:
        n = len(W_dec)
        like = _array(W_dec).dtype
        by_latent = (
            np.empty(n + 1, np.int64),
            np.empty(len(z), np.int32),
            np.empty(len(z), like),
            np.empty(len(z), like),
        )
        latents.sort_by_latent(*map(_array, (entries.row_start, entries.latent, z, grad_pre)), *by_latent)
        slot, nothing = np.empty(0, np.int32), np.empty((0, 0), like)
        dense = slot, nothing, nothing, np.empty(0, like)
        if more is not None:
            slot = np.full(n, -1, np.int32)
            slot[_array(more.latent)] = np.arange(len(more.latent))
            dense = slot, _array(more.W_enc), _array(more.W_dec), _array(more.b_enc)
        self._weights = _array(W_enc.t()), _array(W_dec)
        self._sums = (
            by_latent, np.asarray(levels), _array(slope), _array(x),
            np.empty(0, like) if pull is None else _array(pull), dense,
        )  # fmt: skip

    def formed(self, of_input: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The gradients of W_enc (d_in, n_latents; its memory as W_enc's), W_dec, b_enc, and of a b subtracted from x.

        The last one is −W_enc · ∂L/∂b_enc, None when not `of_input`.
        """
        b_in = self._of_input(of_input)
        dense = self._rows(np.arange(len(self._weights[1])), b_in)
        return dense.W_enc.t(), dense.W_dec, dense.b_enc, self._summed(b_in)

    def rows(self, latent: Int[Tensor, "some"]) -> DenseRows:
        """The gradients of some latents, ascending, as whole rows."""
        return self._rows(_array(latent), self._of_input(False))

    def _rows(self, which: np.ndarray, b_in: np.ndarray) -> DenseRows:
        W_enc, W_dec = self._weights
        enc, dec = (np.empty((len(which), W.shape[1]), W.dtype) for W in (W_enc, W_dec))
        b = np.empty(len(which), W_dec.dtype)
        latents.gradients(which, W_enc, W_dec, *self._sums, enc, dec, b, b_in)
        return DenseRows(*map(torch.from_numpy, (which, enc, dec, b)))

    def touched(self) -> Bool[Tensor, "n_latents"]:
        """Latents that have an entry or a dense row."""
        (start, *_), *_, (slot, *_) = self._sums
        some = np.diff(start) > 0
        return torch.from_numpy(some | (slot >= 0) if len(slot) else some)

    def summed(self, group: Group) -> WeightGradient:
        """The sum over processes with other rows: the rows that are not 0 everywhere are added up."""
        touched = group.max_(self.touched().to(torch.uint8)).bool()
        more = self.rows(touched.nonzero().view(-1))
        for part in (more.W_enc, more.W_dec, more.b_enc):
            group.sum_(part)
        W_enc, W_dec = (torch.from_numpy(W) for W in self._weights)
        empty = W_dec.new_empty(0)
        none = Entries(torch.zeros(1, dtype=torch.long), torch.empty(0, dtype=torch.long), empty, len(W_dec))
        x, slope = W_enc[:0], W_dec[None, :0]
        return WeightGradient(W_enc.t(), W_dec, x, none, empty, empty, slope, (len(W_dec),), None, more)

    def squared_norm(self, unit_rows: bool, of_input: bool = True) -> tuple[float, Tensor | None]:
        """Σ of squares of all three gradients, the part along unit decoder rows removed, and the last of `formed`."""
        squares, b_in = np.zeros(threads()), self._of_input(of_input)
        latents.measure(*self._weights, *self._sums, unit_rows, b_in, squares)
        return float(squares.sum()), self._summed(b_in)

    def apply_adam(
        self,
        moments_enc: Moments,
        moments_dec: Moments,
        *,
        step: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        clip: float = 1.0,
        unit_rows: bool,
        of_input: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """One step of Adam on W_enc and W_dec in place, decoder rows back to unit norm where asked for.

        Args:
            moments_enc: of W_enc, like W_enc.t(); changed in place.
            moments_dec: of W_dec, like it; changed in place.
            step: this step's number, from 1.
            lr: learning rate.
            betas: decay rates.
            eps: Adam's ε.
            clip: factor on all gradients.
            unit_rows: remove each decoder gradient's part along its row, and normalise the row afterwards.
            of_input: also return the gradient of a bias subtracted from x.

        Returns:
            The gradients of b_enc and of a bias subtracted from x, not yet multiplied by `clip`.
        """
        W_dec = self._weights[1]
        number = W_dec.dtype.type
        rate, spread = lr / (1 - betas[0] ** step), 1 / np.sqrt(1 - betas[1] ** step)
        adam = tuple(map(number, (rate, spread, betas[0], 1 - betas[0], betas[1], 1 - betas[1], eps, clip)))
        b, b_in = np.empty(len(W_dec), W_dec.dtype), self._of_input(of_input)
        pairs = [tuple(_array(moment) for moment in moments) for moments in (moments_enc, moments_dec)]
        latents.update(*self._weights, *pairs, *self._sums, unit_rows, adam, np.uint32(step), (b, b_in))
        return torch.from_numpy(b), self._summed(b_in)

    def _of_input(self, wanted: bool) -> np.ndarray:
        W_enc, _ = self._weights
        return np.zeros((threads(), W_enc.shape[1] if wanted else 0), W_enc.dtype)

    @staticmethod
    def _summed(b_in: np.ndarray) -> Tensor | None:
        return torch.from_numpy(b_in.sum(0)) if b_in.shape[1] else None


def keep_largest(pre: Float[Tensor, "rows columns"], k: int) -> UInt8[Tensor, "rows columns"]:
    """Where the k largest of every row are; there pre becomes relu(pre), elsewhere 0, in place.

    The marks are memory that the next call uses again.
    """
    chosen = scratch("chosen", tuple(pre.shape), torch.uint8)
    rows.keep_largest_in_rows(_array(pre), min(k, pre.shape[1]), _array(chosen))
    return chosen


def mask_columns(
    grad: Float[Tensor, "rows columns"], chosen: UInt8[Tensor, "rows columns"]
) -> Float[Tensor, "columns"]:
    """Multiply by the marks in place; the sum over rows is returned."""
    sums = grad.new_zeros(threads(), grad.shape[1])
    rows.mask_rows(_array(grad), _array(chosen), _array(sums))
    return sums.sum(0)


def _array(tensor: Tensor) -> Any:
    """The tensor's memory as an array; bfloat16 as 16-bit integers, which numpy has no type for."""
    tensor = tensor.detach()
    if not tensor.is_contiguous():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} is not contiguous; expected rows one after another")
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
