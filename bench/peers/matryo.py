"""matryo itself: `Member.step`, what `train` and the command line call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.contender import AUX_K, KINDS, LR, Contender, Task
from bench.workload import Workload

STEPS = 10_000_000  # so many that no schedule changes during the bench


class Matryo(Contender):
    """An autoencoder of ours."""

    library: ClassVar[str] = "matryo"
    distribution: ClassVar[str] = "matryo"
    notes: ClassVar[str] = (
        "what `train` calls, unit decoder rows with projection (ReLU: rows free); `TrainConfig` clips the gradient to "
        "norm 1 unless told otherwise: the first row does not clip, the second does; aux-k 512; encodes to sparse rows"
    )

    def setup(self, task: Task, work: Workload) -> None:
        from matryo.sae.train.config import TrainConfig
        from matryo.sae.train.member import Member

        self.sae = build_from(task, work)
        clip = 1.0 if self.variant == "clipped" else 0.0
        config = TrainConfig(lr=LR, clip=clip, warmup=0, decay=0, sparsity_warmup=0)
        self.member = Member(self.sae, config)
        self.taken = 0

    def step(self, x: Tensor) -> None:
        self.losses.append(float(self.member.step(x, None, self.taken, STEPS).total.detach()))
        self.taken += 1

    def reconstruct(self, x: Tensor) -> tuple[Tensor, float]:
        with torch.no_grad():
            entries = self.sae.train().encode_sparse(x)
            return self.sae.decode_sparse(entries), entries.l0

    def state(self) -> Iterable[Tensor]:
        return self.member.state()[0].values()

    def mark_dead(self, dead: Tensor) -> None:
        self.member.silent_tokens[dead] = 2 * self.member.config.dead_after

    def dead_count(self) -> int:
        return int((self.member.silent_tokens >= self.member.config.dead_after).sum())

    def setup_encoder(self, task: Task, work: Workload) -> None:
        self.sae = build_from(task, work).eval()
        if task.kind == "batch_topk":
            self.sae.threshold.fill_(work.threshold)

    def encode(self, x: Tensor) -> Any:
        return self.sae.encode_sparse(x)

    def active(self, latents: Any) -> float:
        return latents.l0


@torch.no_grad()
def build_from(task: Task, work: Workload) -> Any:
    """Our autoencoder of the task's kind, with the workload's weights."""
    from matryo.sae.nn import SAEConfig, build

    kind = "batch_topk" if task.kind == "matryoshka" else task.kind
    sae = build(
        SAEConfig(
            kind=kind,  # pyright: ignore[reportArgumentType]
            d_in=task.shape.d_in,
            n_latents=task.shape.n_latents,
            k=task.shape.k,
            levels=tuple(task.levels) if task.kind == "matryoshka" else "none",
            aux_k=AUX_K,
        )
    )
    sae.W_enc.copy_(work.enc_rows.t())
    sae.W_dec.copy_(work.dec_rows)
    sae.b_dec.copy_(work.b_dec)
    if task.kind == "relu":
        sae.b_enc.fill_(-work.threshold)
    if task.kind == "jumprelu":
        sae.threshold.fill_(work.threshold)
    return sae


def offers(kind: str) -> list[Contender]:
    """Every kind, without and with clipping."""
    return [Matryo(kind), Matryo(kind, "clipped")] if kind in KINDS else []
