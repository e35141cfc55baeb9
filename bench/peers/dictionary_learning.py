"""dictionary_learning: its trainers' `update`, as `trainSAE` calls it."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.contender import AUX_K, KINDS, LR, Contender, Task, tensors_of, without
from bench.workload import Workload

FIRST_STEP = 2_000
"""Past its 1,000 steps without threshold updates and its sparsity warm-up, as most steps of a run are."""


class DictionaryLearning(Contender):
    """A trainer of dictionary_learning."""

    library: ClassVar[str] = "dictionary_learning"
    distribution: ClassVar[str] = "dictionary-learning"
    notes: ClassVar[str] = (
        "0.1.0 from PyPI, which lags its repository; defaults: dense activations, unit decoder rows with projection, "
        "clipping to norm 1; ReLU with its April-update trainer (L1 × decoder norm, rows free, as ours); JumpReLU with "
        "a target L0; `top_k_aux` set to 512; encodes densely"
    )

    def setup(self, task: Task, work: Workload) -> None:
        self.trainer = self._trainer(task)
        self.task = task
        _copy(self.trainer.ae, task, work)
        if task.aux:
            self.trainer.top_k_aux = AUX_K
        self.taken = FIRST_STEP
        self._loss, self.trainer.loss = self.trainer.loss, self._remember

    def _trainer(self, task: Task) -> Any:
        trainers = _trainers()
        shape = task.shape
        settings: dict[str, Any] = {
            "steps": 10_000_000, "activation_dim": shape.d_in, "dict_size": shape.n_latents, "lr": LR,
            "warmup_steps": 0, "layer": 0, "lm_name": "none", "device": "cpu",
        }  # fmt: skip
        match task.kind:
            case "batch_topk":
                return trainers.batch_top_k.BatchTopKTrainer(k=shape.k, **settings)
            case "topk":
                return trainers.top_k.TopKTrainer(k=shape.k, **settings)
            case "matryoshka":
                return trainers.matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer(
                    k=shape.k, group_fractions=[1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2], **settings
                )
            case "jumprelu":
                return trainers.jumprelu.JumpReluTrainer(target_l0=float(shape.k), **settings)
            case _:
                return trainers.standard.StandardTrainerAprilUpdate(**settings)

    def _remember(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = self._loss(*args, **kwargs)
        self.losses.append(float(loss.detach()))
        return loss

    def step(self, x: Tensor) -> None:
        self.trainer.update(self.taken, x)
        self.taken += 1

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> tuple[Tensor, float]:
        by_batch = {"use_threshold": False} if self.task.kind in ("batch_topk", "topk", "matryoshka") else {}
        latents = self.trainer.ae.encode(x, **by_batch)
        return self.trainer.ae.decode(latents), self.active(latents)

    def state(self) -> Iterable[Tensor]:
        counts = getattr(self.trainer, "num_tokens_since_fired", None)
        return (*tensors_of(self.trainer.ae, self.trainer.optimizer), *(() if counts is None else (counts,)))

    def mark_dead(self, dead: Tensor) -> None:
        self.trainer.num_tokens_since_fired[dead] = 2 * self.trainer.dead_feature_threshold

    def dead_count(self) -> int:
        return int((self.trainer.num_tokens_since_fired >= self.trainer.dead_feature_threshold).sum())

    def setup_encoder(self, task: Task, work: Workload) -> None:
        trainers = _trainers()
        sizes = (task.shape.d_in, task.shape.n_latents, task.shape.k)
        by_batch = task.kind == "batch_topk"
        self.ae = trainers.batch_top_k.BatchTopKSAE(*sizes) if by_batch else trainers.top_k.AutoEncoderTopK(*sizes)
        _copy(self.ae, task, work)
        self.ae.threshold.fill_(work.threshold)

    def encode(self, x: Tensor) -> Any:
        return self.ae.encode(x)


def _trainers() -> Any:
    with without("nnsight"):
        importlib.import_module("dictionary_learning.trainers.matryoshka_batch_top_k")  # which the others do not load
        return importlib.import_module("dictionary_learning.trainers")


@torch.no_grad()
def _copy(ae: Any, task: Task, work: Workload) -> None:
    named = dict(ae.named_parameters())
    transposed = "W_enc" in named
    enc, dec = named["W_enc" if transposed else "encoder.weight"], named["W_dec" if transposed else "decoder.weight"]
    enc.copy_(work.enc_rows.t() if transposed else work.enc_rows)
    dec.copy_(work.dec_rows if transposed else work.dec_rows.t())
    bias = named["b_enc" if transposed else "encoder.bias"]
    named["b_dec" if "b_dec" in named else "bias"].copy_(work.b_dec)
    if task.kind == "relu":
        bias.fill_(-work.threshold)
    if task.kind == "jumprelu":
        # Its JumpReLU does not subtract b_dec from the input.
        bias.copy_(-(work.enc_rows @ work.b_dec))
        named["threshold"].fill_(work.threshold)


def offers(kind: str) -> list[Contender]:
    """Every kind."""
    return [DictionaryLearning(kind)] if kind in KINDS else []
