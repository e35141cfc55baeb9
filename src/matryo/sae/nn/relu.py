"""ReLU: the classic sparse autoencoder with an L1 penalty."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from matryo.sae.kernels import Entries, Watch, at_latents, select_above, shared_sum
from matryo.sae.nn.base import SAE
from matryo.sae.nn.loss import Active


@final
class ReLU(SAE):
    """z = relu(pre), with sparsity = λ · mean Σ_j z_j ‖W_dec[j]‖ / d_in (λ is `config.l1`).

    Decoder rows are free: the penalty carries their norm, so scaling a row up and its encoder down gains nothing.

    Reference: Anthropic, "Circuits updates, April 2024: Update on how we train SAEs".
    """

    unit_rows = False

    def calibrate(self, batches: Iterable[Float[Tensor, "_ d_in"]]) -> None:
        """Nothing: inference is training's rule."""

    def _select(self, centred: Float[Tensor, "batch d_in"], hint: float | None, watch: Watch | None = None) -> Entries:
        return select_above(centred, self.W_enc, self.b_enc, 0.0, watch)

    def _activate(self, pre: Float[Tensor, "entries"], entries: Entries) -> Float[Tensor, "entries"]:
        return pre

    def _sparsity(self, active: Active, scale: float) -> Tensor:
        assert active.norms is not None
        lengths = shared_sum((active.z * at_latents(active.norms, active.entries)).sum(), self.mesh.all)
        return scale * self.config.l1 * lengths / (self.mesh.batch(active.target) * self.config.d_in)

    def _dense(
        self, pre: Float[Tensor, "batch n_latents"], norms: Float[Tensor, "n_latents"] | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """(z, None, Σ z_j ‖W_dec[j]‖) of all pre-activations of some tokens."""
        assert norms is not None
        z = torch.relu(pre)
        return z, None, (z @ norms).sum()

    def _start(self, centred: Float[Tensor, "batch d_in"]) -> None:
        """Nothing: the rule has no parameters of its own."""

    def _own_tensors(self) -> dict[str, int]:
        return {}
