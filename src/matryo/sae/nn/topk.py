"""TopK: the k largest activations of every token."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor

from matryo.sae.kernels import Entries, Watch, select_row_topk
from matryo.sae.nn.topk_family import TopKFamily


@final
class TopK(TopKFamily):
    """z = the k largest positive pre-activations of each token, others 0.

    With Matryoshka levels, inference uses one threshold θ instead (z = pre · 1[pre > θ], mean L0 = k), so that a prefix
    can be used alone: under a per-token top-k a latent's activity depends on all others.

    Reference: Gao et al., "Scaling and evaluating sparse autoencoders" (2024).
    """

    @property
    def by_threshold(self) -> bool:
        """Whether inference uses θ: only with levels, or cut from an SAE with levels."""
        return self.config.nested or self.calibrated

    def _select_in_batch(
        self, centred: Float[Tensor, "batch d_in"], hint: float | None, watch: Watch | None = None
    ) -> Entries:
        return select_row_topk(centred, self.W_enc, self.b_enc, self.config.k, hint, watch, self.mesh.latents)
