"""Overcomplete: its `train_sae`, one batch at a time."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.contender import LR, Contender, Task, tensors_of, without
from bench.workload import Workload


class Overcomplete(Contender):
    """An autoencoder of Overcomplete."""

    library: ClassVar[str] = "Overcomplete"
    distribution: ClassVar[str] = "overcomplete"
    notes: ClassVar[str] = (
        "default linear encoder, no decoder bias; the criterion is the user's: squared error, plus a target-L0 penalty "
        "through its `heaviside` for JumpReLU, its `mse_l1` for ReLU; torch's Adam; clipping to norm 1 and its "
        "monitoring, which are its defaults; BatchTopK's `top_k` is k · batch; encodes densely"
    )

    def setup(self, task: Task, work: Workload) -> None:
        sae = _library()
        shape = task.shape
        settings: dict[str, Any] = {"input_shape": shape.d_in, "nb_concepts": shape.n_latents, "device": "cpu"}
        self.criterion: Any = _squared_error
        match task.kind:
            case "batch_topk":
                self.model: Any = sae.BatchTopKSAE(top_k=shape.k * shape.batch, **settings)
            case "topk":
                self.model = sae.TopKSAE(top_k=shape.k, **settings)
            case "jumprelu":
                self.model = sae.JumpSAE(**settings)
                self.criterion = _target_l0(sae, self.model, shape.k)
            case _:
                self.model = sae.SAE(**settings)
                self.criterion = sae.mse_l1
        _copy(self.model, task, work)
        self.train_sae = sae.train_sae
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=LR)

    def step(self, x: Tensor) -> None:
        # An epoch of one batch: it prints a line at the end of each.
        with contextlib.redirect_stdout(io.StringIO()):
            logs = self.train_sae(self.model, [x], self.criterion, self.optimiser, nb_epochs=1)
        self.losses += logs["step_loss"]

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> tuple[Tensor, float]:
        _, latents, x_hat = self.model.train()(x)
        return x_hat, self.active(latents)

    def state(self) -> Iterable[Tensor]:
        return tensors_of(self.model, self.optimiser)

    def setup_encoder(self, task: Task, work: Workload) -> None:
        self.setup(task, work)
        self.model.eval()
        self.model.running_threshold = torch.tensor(work.threshold)

    def encode(self, x: Tensor) -> Any:
        return self.model.encode(x)[1]


def _library() -> Any:
    # Its image models need torchvision; its plots a function that matplotlib has dropped.
    with without("torchvision", "overcomplete.visualization"):
        import overcomplete.sae as sae
    return sae


def _squared_error(x: Tensor, x_hat: Tensor, pre_codes: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
    return (x - x_hat).square().mean()


def _target_l0(sae: Any, model: Any, k: int) -> Any:
    def criterion(x: Tensor, x_hat: Tensor, pre_codes: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
        active = sae.heaviside(pre_codes, torch.exp(model.thresholds), model.kernel_fn, model.bandwidth)
        return (x - x_hat).square().mean() + (active.sum(1).mean() / k - 1).square()

    return criterion


@torch.no_grad()
def _copy(model: Any, task: Task, work: Workload) -> None:
    linear = model.encoder.final_block[0]
    linear.weight.copy_(work.enc_rows)
    linear.bias.copy_(-(work.enc_rows @ work.b_dec))
    model.dictionary._weights.copy_(work.dec_rows)
    if task.kind == "relu":
        linear.bias.sub_(work.threshold)
    if task.kind == "jumprelu":
        model.thresholds.fill_(torch.tensor(work.threshold).log())


def offers(kind: str) -> list[Contender]:
    """All but Matryoshka."""
    return [Overcomplete(kind)] if kind in ("batch_topk", "topk", "jumprelu", "relu") else []
