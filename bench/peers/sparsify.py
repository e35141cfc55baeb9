"""sparsify: its `SparseCoder`, with the lines of its `Trainer`'s hook and loop around it.

The trainer itself only trains inside a language model's forward pass; those lines are what is left of it without one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.contender import LR, Contender, Task, tensors_of
from bench.workload import Workload


class Sparsify(Contender):
    """A sparse coder of sparsify."""

    library: ClassVar[str] = "sparsify"
    distribution: ClassVar[str] = "eai-sparsify"
    notes: ClassVar[str] = (
        "TopK only; sparse decoder and encoder gradient; default optimiser SignSGD + schedule-free (one state, not "
        "Adam's two), also timed with Adam; no clipping; its encoder's backward drops the gradient of the aux loss, "
        "which is off by default (weight 1/32 here) with aux-k fixed at d/2 = 384"
    )

    def setup(self, task: Task, work: Workload) -> None:
        # Its Triton decoder is chosen wherever triton can be imported, and fails without a GPU.
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
        from schedulefree import ScheduleFreeWrapper
        from sparsify import SparseCoder, TrainConfig
        from sparsify.config import SparseCoderConfig
        from sparsify.sign_sgd import SignSGD

        shape = task.shape
        coder_config = SparseCoderConfig(num_latents=shape.n_latents, k=shape.k)
        self.config = TrainConfig(coder_config, auxk_alpha=1 / 32 if task.aux else 0.0)
        self.coder: Any = SparseCoder(shape.d_in, coder_config)
        with torch.no_grad():
            self.coder.encoder.weight.copy_(work.enc_rows)
            self.coder.W_dec.copy_(work.dec_rows)
            self.coder.b_dec.copy_(work.b_dec)
        if self.variant == "Adam":
            self.optimiser: Any = torch.optim.Adam(self.coder.parameters(), lr=LR)
        else:
            self.optimiser = ScheduleFreeWrapper(SignSGD(self.coder.parameters(), lr=LR), momentum=0.95)
            self.optimiser.train()
        self.silent = torch.zeros(shape.n_latents, dtype=torch.long)
        self.did_fire = torch.zeros(shape.n_latents, dtype=torch.bool)

    def step(self, x: Tensor) -> None:
        alpha = self.config.auxk_alpha
        self.coder.set_decoder_norm_to_unit_norm()
        dead_mask = self.silent > self.config.dead_feature_threshold if alpha > 0 else None
        total_variance = (x - x.mean(0)).pow(2).sum()
        out = self.coder(x=x, y=x, dead_mask=dead_mask, total_variance=total_variance)
        self.did_fire[out.latent_indices.flatten()] = True
        # Its averages for the log; the second only when there is an auxiliary loss.
        logged = float(out.fvu.detach()) + (alpha * float(out.auxk_loss.detach()) if alpha > 0 else 0.0)
        self.losses.append(logged)
        (out.fvu + alpha * out.auxk_loss + out.multi_topk_fvu / 8).backward()
        self.coder.remove_gradient_parallel_to_decoder_directions()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.silent += len(x)
        self.silent[self.did_fire] = 0
        self.did_fire.zero_()

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> tuple[Tensor, float]:
        latents = self.coder.encode(x)
        return self.coder.decode(latents.top_acts, latents.top_indices), self.active(latents)

    def state(self) -> Iterable[Tensor]:
        base = [self.optimiser.base] if hasattr(self.optimiser, "base") else []
        return (*tensors_of(self.coder, self.optimiser, *base), self.silent, self.did_fire)

    def mark_dead(self, dead: Tensor) -> None:
        self.silent[dead] = 2 * self.config.dead_feature_threshold

    def dead_count(self) -> int:
        return int((self.silent > self.config.dead_feature_threshold).sum())

    def setup_encoder(self, task: Task, work: Workload) -> None:
        self.setup(task, work)

    def encode(self, x: Tensor) -> Any:
        return self.coder.encode(x)

    def active(self, latents: Any) -> float:
        return float((latents.top_acts > 0).sum()) / len(latents.top_acts)


def offers(kind: str) -> list[Contender]:
    """TopK, with its default optimiser and with Adam."""
    return [Sparsify(kind), Sparsify(kind, "Adam")] if kind == "topk" else []
