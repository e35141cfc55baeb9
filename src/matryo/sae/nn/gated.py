"""Gated: one path decides which latents are active, another how strongly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from matryo.sae.kernels import Entries, Watch, at_latents, decode_losses, select_above, shared_sum
from matryo.sae.nn.base import SAE
from matryo.sae.nn.config import SAEConfig
from matryo.sae.nn.levels import level_weights
from matryo.sae.nn.loss import Active


@final
class Gated(SAE):
    """z = 1[π > 0] · relu(exp(r_mag) · (π − b_enc) + b_mag), with gate pre-activations π = (x − b_dec) W_enc + b_enc.

        sparsity = λ · mean Σ_j relu(π_j) / d_in + Σ_m w_m mean‖target − x̂_m(relu(π))‖² / d_out

    λ is `config.l1`; in the second term, which trains the gate, the decoder is held fixed. Decoder rows have unit norm.

    Reference: Rajamanoharan et al., "Improving Dictionary Learning with Gated Sparse Autoencoders" (2024).
    """

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        self.r_mag = nn.Parameter(torch.zeros(config.n_latents))
        self.b_mag = nn.Parameter(torch.zeros(config.n_latents))

    def calibrate(self, batches: Iterable[Float[Tensor, "_ d_in"]]) -> None:
        """Nothing: inference is training's rule."""

    def _select(self, centred: Float[Tensor, "batch d_in"], hint: float | None, watch: Watch | None = None) -> Entries:
        return select_above(centred, self.W_enc, self.b_enc, 0.0, watch)

    def _activate(self, pre: Float[Tensor, "entries"], entries: Entries) -> Float[Tensor, "entries"]:
        gain, b_enc, b_mag = (at_latents(part, entries) for part in (self.r_mag.exp(), self.b_enc, self.b_mag))
        return torch.relu(gain * (pre - b_enc) + b_mag)

    def _sparsity(self, active: Active, scale: float) -> Tensor:
        pre, levels = active.pre, self._here(active.levels)
        per_level, _ = decode_losses(
            pre, active.entries, self.W_dec.detach(), self.b_dec.detach(), active.target, levels, self.mesh
        )
        gate = (level_weights(self.config, len(active.levels), per_level) * per_level).sum()
        total = shared_sum(pre.sum(), self.mesh.all)
        return scale * self.config.l1 * total / (self.mesh.batch(active.target) * self.config.d_in) + gate

    def _dense(
        self, pre: Float[Tensor, "batch n_latents"], norms: Float[Tensor, "n_latents"] | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """(z, gate relu(π), Σ relu(π_j)) of all gate pre-activations of some tokens."""
        gate = torch.relu(pre)
        z = (pre > 0) * torch.relu(self.r_mag.exp() * (pre - self.b_enc) + self.b_mag)
        return z, gate, gate.sum()

    def _start(self, centred: Float[Tensor, "batch d_in"]) -> None:
        """Nothing: both paths start equal."""

    def _own_tensors(self) -> dict[str, int]:
        return {"r_mag": 0, "b_mag": 1}
