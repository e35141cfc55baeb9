"""BatchTopK: the k · batch largest activations of a batch."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor

from matryo.sae.kernels import Entries, Watch, select_batch_topk
from matryo.sae.nn.topk_family import TopKFamily


@final
class BatchTopK(TopKFamily):
    """Training: z = the k · batch largest positive pre-activations of the batch, others 0. Inference: pre · 1[pre > θ].

    k is the mean number of active latents per token; a token uses as many as it needs.

    Reference: Bussmann, Leask & Nanda, "BatchTopK Sparse Autoencoders" (2024), which sets θ to the expected smallest
    positive activation of a batch; here θ is the exact value that gives mean L0 = k on held-back training tokens.
    """

    def _select_in_batch(
        self, centred: Float[Tensor, "batch d_in"], hint: float | None, watch: Watch | None = None
    ) -> Entries:
        count = self.config.k * self.mesh.batch(centred)
        return select_batch_topk(centred, self.W_enc, self.b_enc, count, hint, watch, self.mesh.all)
