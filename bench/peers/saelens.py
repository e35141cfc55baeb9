"""SAELens: `SAETrainer.step` around its training SAEs, as its `fit` calls it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.contender import KINDS, LR, Contender, Task, tensors_of
from bench.workload import Workload


class SAELens(Contender):
    """A training SAE of SAELens."""

    library: ClassVar[str] = "SAELens"
    distribution: ClassVar[str] = "sae-lens"
    notes: ClassVar[str] = (
        "defaults: dense activations, decoder rows free and activations rescaled by their norms, clipping to norm 1, "
        "firing counts every step; TopK also with its `use_sparse_activations`, which works only without rescaling; "
        "JumpReLU with the default `step` loss; aux-k fixed at d/2 = 384, whose pre-activations may be negative; "
        "encodes densely, BatchTopK as the JumpReLU it is saved as"
    )

    def setup(self, task: Task, work: Workload) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        self.sae = self._training_sae(task)
        _copy(self.sae, task, work)
        batch = task.shape.batch
        config = SAETrainerConfig(
            total_training_samples=1_000_000 * batch, train_batch_size_samples=batch, lr=LR, lr_end=LR, device="cpu"
        )
        self.trainer = SAETrainer(config, self.sae, data_provider=iter(()))

    def _training_sae(self, task: Task) -> Any:
        import sae_lens

        sizes: dict[str, Any] = {"d_in": task.shape.d_in, "d_sae": task.shape.n_latents}
        k = task.shape.k
        match task.kind:
            case "batch_topk":
                config = sae_lens.BatchTopKTrainingSAEConfig(k=k, **sizes)
                return sae_lens.BatchTopKTrainingSAE(config)
            case "topk":
                sparse = self.variant == "sparse COO"
                # Its backward fails on sparse activations rescaled by decoder norms.
                config = sae_lens.TopKTrainingSAEConfig(
                    k=k, use_sparse_activations=sparse, rescale_acts_by_decoder_norm=not sparse, **sizes
                )
                return sae_lens.TopKTrainingSAE(config)
            case "matryoshka":
                config = sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(k=k, matryoshka_widths=task.levels, **sizes)
                return sae_lens.MatryoshkaBatchTopKTrainingSAE(config)
            case "jumprelu":
                return sae_lens.JumpReLUTrainingSAE(sae_lens.JumpReLUTrainingSAEConfig(**sizes))
            case _:
                return sae_lens.StandardTrainingSAE(sae_lens.StandardTrainingSAEConfig(**sizes))

    def step(self, x: Tensor) -> None:
        self.trainer.maybe_reset_sparsity()
        self.losses.append(float(self.trainer.step(x).loss.detach()))
        self.trainer.n_training_steps += 1

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> tuple[Tensor, float]:
        latents = self.sae.encode(x)
        return self.sae.decode(latents), self.active(latents.to_dense())

    def state(self) -> Iterable[Tensor]:
        counts = (self.trainer.act_freq_scores, self.trainer.n_forward_passes_since_fired)
        return (*tensors_of(self.sae, self.trainer.optimizer), *counts)

    def mark_dead(self, dead: Tensor) -> None:
        self.trainer.n_forward_passes_since_fired[dead] = 2 * self.trainer.cfg.dead_feature_window

    def dead_count(self) -> int:
        return int(self.trainer.dead_neurons.sum())

    def setup_encoder(self, task: Task, work: Workload) -> None:
        import sae_lens

        sizes: dict[str, Any] = {"d_in": task.shape.d_in, "d_sae": task.shape.n_latents}
        if task.kind == "batch_topk":
            self.sae = sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(**sizes))
            self.sae.threshold.data.fill_(work.threshold)
        else:
            self.sae = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(k=task.shape.k, **sizes))
        _copy(self.sae, task, work)
        self.sae.eval()

    def encode(self, x: Tensor) -> Any:
        return self.sae.encode(x)


@torch.no_grad()
def _copy(sae: Any, task: Task, work: Workload) -> None:
    sae.W_enc.copy_(work.enc_rows.t())
    sae.W_dec.copy_(work.dec_rows)
    sae.b_dec.copy_(work.b_dec)
    if task.kind == "relu":
        sae.b_enc.fill_(-work.threshold)
    if task.kind == "jumprelu":
        sae.threshold.fill_(work.threshold)


def offers(kind: str) -> list[Contender]:
    """Every kind; TopK also with sparse activations."""
    if kind not in KINDS:
        return []
    return [SAELens(kind), SAELens(kind, "sparse COO")] if kind == "topk" else [SAELens(kind)]
