"""JumpReLU: a threshold per latent, learned through straight-through estimates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from matryo.sae.kernels import Entries, Watch, at_latents, select_above, select_batch_topk, shared_sum
from matryo.sae.nn.base import SAE
from matryo.sae.nn.config import SAEConfig
from matryo.sae.nn.loss import Active


@final
class JumpReLU(SAE):
    """z = relu(pre) · 1[pre > θ], one learned threshold θ_j per latent, with sparsity = l0_weight · (L0 / k − 1)².

    The jump has no gradient; within a window of width ε (`config.bandwidth`) around θ it is estimated by

        ∂z/∂θ = −θ/ε,   ∂1[pre > θ]/∂θ = −1/ε     where |pre − θ| < ε/2,  0 elsewhere.

    θ starts where the first batch has L0 = k, and stays in float32 whatever the dtype of the weights: in bfloat16 its
    small steps would be rounded away.

    Reference: Rajamanoharan et al., "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse
    Autoencoders" (2024), whose L0 penalty is linear; the target form is its appendix's.
    """

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        self.threshold = nn.Parameter(torch.full((config.n_latents,), 0.1))

    def calibrate(self, batches: Iterable[Float[Tensor, "_ d_in"]]) -> None:
        """Nothing: thresholds are learned."""

    def _select(self, centred: Float[Tensor, "batch d_in"], hint: float | None, watch: Watch | None = None) -> Entries:
        margin = self.config.bandwidth / 2 if self.training else 0.0
        return select_above(centred, self.W_enc, self.b_enc, self.threshold.detach() - margin, watch)

    def _activate(self, pre: Float[Tensor, "entries"], entries: Entries) -> Float[Tensor, "entries"]:
        return _Jump.apply(pre, at_latents(self.threshold, entries), self.config.bandwidth)[0]  # pyright: ignore

    def _sparsity(self, active: Active, scale: float) -> Tensor:
        threshold = at_latents(self.threshold, active.entries)
        ones = _Jump.apply(active.pre, threshold, self.config.bandwidth)[1]  # pyright: ignore
        l0 = shared_sum(ones.sum(), self.mesh.all) / self.mesh.batch(active.target)
        return scale * self.config.l0_weight * (l0 / self.config.k - 1).square()

    def _start(self, centred: Float[Tensor, "batch d_in"]) -> None:
        count = self.config.k * len(centred)
        chosen = select_batch_topk(centred, self.W_enc, self.b_enc, count, group=self.mesh.latents)
        least = self.mesh.smallest(chosen.value)
        if least is not None:
            self.threshold.fill_(least)

    def _own_tensors(self) -> dict[str, int]:
        return {"threshold": 1}

    def _apply(self, fn: Any, recurse: bool = True) -> JumpReLU:
        """Convert like any module, but never keep θ or its gradient in less than float32."""
        before, grad = self.threshold.data, self.threshold.grad
        super()._apply(fn, recurse)
        if self.threshold.dtype in (torch.bfloat16, torch.float16):
            self.threshold.grad = None
            self.threshold.data = before.to(self.threshold.device, torch.float32)
            self.threshold.grad = None if grad is None else grad.to(self.threshold)
        return self


class _Jump(torch.autograd.Function):
    """(z, 1[z > 0]) with straight-through gradients of θ; the second in the dtype of θ, for an exact count."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
        active = (pre > threshold) & (pre > 0)
        ctx.save_for_backward(pre, threshold, active)
        ctx.bandwidth = bandwidth
        return pre * active, active.to(threshold.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, threshold, active = ctx.saved_tensors
        grad_z, grad_active = grads
        window = (pre - threshold).abs() < ctx.bandwidth / 2
        grad_threshold = -(grad_z * threshold + grad_active) / ctx.bandwidth * window
        return grad_z * active, grad_threshold.to(threshold.dtype), None
