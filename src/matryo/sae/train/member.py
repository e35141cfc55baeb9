"""One autoencoder in training: its optimiser, its dead latents, what the next batch can learn from the last."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from matryo.sae.kernels import total_of
from matryo.sae.nn import SAE, Gated, Loss, ReLU, TopK
from matryo.sae.nn.topk_family import TopKFamily
from matryo.sae.train.adam import Adam
from matryo.sae.train.config import TrainConfig
from matryo.sae.train.dense import DENSE_ABOVE, dense_step
from matryo.sae.train.fused import FusedStep
from matryo.sae.train.parallel.gradients import clip_gradients, sum_gradients
from matryo.spine.seeding import torch_generator

TURNED = ".T"
"""Ending of the names of tensors that a checkpoint holds transposed, as they lie in memory: writing copies nothing."""

SETTLING_STEPS = 20
"""Steps at the end, the learning rate near 0, from whose batches a threshold is taken when there is no calibration."""


class Member:
    """One autoencoder with everything that changes as it trains.

    `state()` and `restore()` carry all of it, so that a resumed run goes on bit for bit.
    """

    def __init__(self, sae: SAE, config: TrainConfig) -> None:
        self.sae = sae.train()
        self.config = config
        self.lr = config.lr or 2e-4 * math.sqrt(2**14 / sae.config.n_latents)
        self.optimiser = Adam(dict(sae.named_parameters()), config.betas, {"threshold": config.threshold_lr})
        self.fused = FusedStep(self.sae, self.optimiser, config.moments == "bfloat16")
        self.generator = torch_generator(sae.config.seed, "levels")
        self.silent_tokens = torch.zeros(len(sae.W_dec), dtype=torch.long, device=sae.W_dec.device)
        self.hint: float | None = None
        self.density: float | None = None
        self.boundaries: list[float] = []

    def step(self, x: Tensor, target: Tensor | None, step: int, steps: int) -> Loss:
        """One gradient step on a scaled batch."""
        dead = self.silent_tokens >= self.config.dead_after
        scale = self.config.sparsity_factor(step, steps)
        update = self._update
        if self._is_dense(x):
            loss = dense_step(self.sae, x, target, dead, self.generator, scale)
        elif FusedStep.serves(self.sae):
            loss = self.fused.loss(x, target, dead, self.hint, self.generator, scale)
            update = self.fused.update
        else:
            loss = self.sae.loss(x, target, dead=dead, hint=self.hint, generator=self.generator, sparsity_scale=scale)
            loss.total.backward()
        total = float(loss.total.detach())
        if not math.isfinite(total):
            raise ValueError(
                f"the loss of {self.sae.config.name} is {total} at step {step}; expected a finite number: lower lr"
            )
        self.optimiser.lr = self.lr * self.config.lr_factor(step, steps)
        update(self.config.clip)
        self._remember(loss, self.sae.mesh.batch(x))
        if isinstance(self.sae, TopKFamily) and self.sae.by_threshold and steps - step <= SETTLING_STEPS:
            self._settle(self.sae, x, loss)
        return loss

    def _is_dense(self, x: Tensor) -> bool:
        """Whether so many latents are active that dense products are cheaper: by the last step, or by a few rows."""
        if not isinstance(self.sae, ReLU | Gated):
            return False
        if self.density is None:
            self.density = self.sae.mesh.l0(self.sae.encode_sparse(x[:64])) / self.sae.config.n_latents
        return self.density > DENSE_ABOVE

    def _update(self, clip: float) -> None:
        """One step of Adam with the gradients that autograd left."""
        sum_gradients(self.sae)
        self.sae.project_gradient()
        if clip:
            clip_gradients(self.sae, clip)
        self.optimiser.step()
        self.sae.normalise_rows()

    def _remember(self, loss: Loss, tokens: int) -> None:
        self.silent_tokens += tokens
        self.silent_tokens[loss.fired] = 0
        self.density = loss.active / self.sae.config.n_latents
        if loss.smallest is not None:
            # Where tokens have fewer than k positive values, no guess but 0 would do for them.
            short = isinstance(self.sae, TopK) and loss.active < self.sae.config.k
            self.hint = None if short else loss.smallest

    def _settle(self, sae: TopKFamily, x: Tensor, loss: Loss) -> None:
        """Add this batch's threshold to the mean that inference uses when no calibration batches are given."""
        boundary = loss.smallest
        if isinstance(sae, TopK):
            # The smallest value selected for any token is far below what gives k latents on average.
            before = sae.threshold.clone()
            sae.calibrate([x])
            boundary = float(sae.threshold)
            sae.threshold.copy_(before)
        if boundary is not None:
            self.boundaries.append(boundary)

    def dead_fraction(self) -> float:
        """Share of latents that have been silent for `dead_after` tokens."""
        dead = int((self.silent_tokens >= self.config.dead_after).sum())
        return total_of(dead, self.sae.mesh.latents, self.silent_tokens) / self.sae.config.n_latents

    @property
    def by_latent(self) -> set[str]:
        """Names, as `state` gives them, of the tensors that have one row for each latent."""
        names = [name for name, _ in self.sae.named_parameters() if name != "b_dec"]
        found = {"silent_tokens", *(f"sae.{name}" for name in names)}
        found |= {f"adam.{name}.{moment}" for name in names for moment in "mv"}
        return found | {name + TURNED for name in found}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values to write to a checkpoint."""
        tensors = {f"sae.{name}": value for name, value in self.sae.state_dict().items()}
        moments, taken = self.optimiser.state()
        tensors |= {f"adam.{name}": value for name, value in moments.items()}
        tensors["silent_tokens"] = self.silent_tokens
        tensors["generator"] = self.generator.get_state()
        plain = {"hint": self.hint, "density": self.density, "boundaries": self.boundaries, "taken": taken}
        return dict(_in_rows(name, value.detach()) for name, value in tensors.items()), plain

    def restore(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Take up a checkpoint's tensors and plain values."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            head, _, rest = name.removesuffix(TURNED).partition(".")
            parts.setdefault(head, {})[rest] = value.t() if name.endswith(TURNED) else value
        self.sae.load_state_dict(parts["sae"])
        self.optimiser.restore(parts.get("adam", {}), plain["taken"])
        self.silent_tokens.copy_(tensors["silent_tokens"])
        self.generator.set_state(tensors["generator"])
        self.hint, self.density, self.boundaries = plain["hint"], plain["density"], list(plain["boundaries"])


def _in_rows(name: str, value: Tensor) -> tuple[str, Tensor]:
    """A tensor as it lies in memory, W_enc and its moments latent by latent, with the name it is stored under."""
    if value.dim() == 2 and not value.is_contiguous() and value.t().is_contiguous():
        return name + TURNED, value.t()
    return name, value.contiguous()
