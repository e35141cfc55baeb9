"""Latents as sums of meta-latents, and meta-latents as sets of latents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matryo.sae.nn import SAE


@dataclass(frozen=True)
class Part:
    """One meta-latent of one latent."""

    latent: int
    meta: int
    activation: float
    "a_im."
    contribution: float
    "a_im ⟨v_m, w_i⟩, negative where the meta-latent points away from the row it helps to build."
    cosine: float
    "Between the row and the meta-latent's direction."


@dataclass(frozen=True)
class Decomposition:
    """Every latent's unit decoder row w_i as b + Σ_m a_im v_m + r_i.

    Since ‖w_i‖ = 1, a row's squared norm is shared out with signs, and the shares sum to 1:

        1 = ⟨w_i, b⟩ + Σ_m a_im ⟨v_m, w_i⟩ + ⟨w_i, r_i⟩
            bias       contributions         residual

    The paper gives activations a_im only; contributions are ours.
    """

    latent: Int[Tensor, "entries"]
    "Latent of every active pair, ascending."
    meta: Int[Tensor, "entries"]
    activation: Float[Tensor, "entries"]
    contribution: Float[Tensor, "entries"]
    cosine: Float[Tensor, "entries"]
    bias: Float[Tensor, "n_latents"]
    residual: Float[Tensor, "n_latents"]
    error: Float[Tensor, "n_latents"]
    "‖r_i‖²."
    spread: Float[Tensor, "n_latents"]
    "‖w_i − w̄‖², w̄ the mean row."
    n_meta: int

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return len(self.bias)

    @property
    def explained(self) -> Float[Tensor, "n_latents"]:
        """1 − ‖r_i‖² / ‖w_i − w̄‖² of every latent; nan for rows without direction."""
        return 1 - self.error / self.spread

    @property
    def variance_explained(self) -> float:
        """1 − Σ‖w_i − ŵ_i‖² / Σ‖w_i − w̄‖²: the decoder variance that the meta-SAE explains."""
        known = ~self.spread.isnan()
        spread = float(self.spread[known].sum())
        return 1 - float(self.error[known].sum()) / spread if spread else float("nan")

    @cached_property
    def counts(self) -> Int[Tensor, "n_latents"]:
        """Active meta-latents of every latent."""
        return torch.bincount(self.latent, minlength=self.n_latents)

    @cached_property
    def sizes(self) -> Int[Tensor, "n_meta"]:
        """Latents of every meta-latent."""
        return torch.bincount(self.meta, minlength=self.n_meta)

    def of_latent(self, latent: int) -> list[Part]:
        """The meta-latents of a latent, the largest contribution first."""
        self._check("latent", latent, self.n_latents)
        return self._parts(self.latent == latent, self.contribution)

    def of_meta(self, meta: int) -> list[Part]:
        """The latents of a meta-latent, the most active first."""
        self._check("meta-latent", meta, self.n_meta)
        return self._parts(self.meta == meta, self.activation)

    def _parts(self, chosen: Tensor, by: Tensor) -> list[Part]:
        index = chosen.nonzero().view(-1)
        index = index[torch.argsort(by[index], descending=True, stable=True)]
        columns = (self.latent, self.meta, self.activation, self.contribution, self.cosine)
        return [Part(*values) for values in zip(*(column[index].tolist() for column in columns), strict=True)]

    @staticmethod
    def _check(name: str, number: int, count: int) -> None:
        if not 0 <= number < count:
            raise ValueError(f"{name} is {number}; expected 0 to {count - 1}")


@torch.no_grad()
def decompose(meta: SAE, directions: Float[Tensor, "n_latents d"]) -> Decomposition:
    """Run the meta-SAE on every latent's unit decoder row.

    Args:
        meta: a meta-SAE in eval mode.
        directions: what `decoder_directions` gives.

    Raises:
        ValueError: the meta-SAE is of another width.
    """
    meta = meta.eval()
    rows = directions.to(meta.W_dec)
    alive = rows.any(1)
    index = alive.nonzero().view(-1)
    rows = rows[alive]
    entries = meta.encode_sparse(rows)
    residual = (rows - meta.decode_sparse(entries)).double()
    vectors = meta.W_dec.detach()
    dots = torch.cat(
        [
            (rows[row] * vectors[latent]).sum(1)
            for row, latent in zip(entries.row.split(2**14), entries.latent.split(2**14), strict=True)
        ]
    )
    norms = torch.linalg.vector_norm(vectors, dim=1).clamp_min(torch.finfo(vectors.dtype).tiny)
    exact = rows.double()
    per_row = {
        "bias": exact @ meta.b_dec.detach().double(),
        "residual": (exact * residual).sum(1),
        "error": residual.square().sum(1),
        "spread": (exact - exact.mean(0)).square().sum(1),
    }
    return Decomposition(
        latent=index[entries.row].cpu(),
        meta=entries.latent.cpu(),
        activation=entries.value.cpu(),
        contribution=(entries.value * dots).cpu(),
        cosine=(dots / norms[entries.latent]).cpu(),
        n_meta=meta.config.n_latents,
        **{name: _spread_out(values, index, len(directions)) for name, values in per_row.items()},
    )


def _spread_out(values: Tensor, index: Tensor, n: int) -> Tensor:
    """Values of the rows that have a direction, nan for the others."""
    out = torch.full((n,), float("nan"), dtype=torch.float64)
    out[index.cpu()] = values.cpu()
    return out
