"""The toy experiment's own training: tiny ReLU autoencoders, all seeds in one step, as the paper trains them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from matryo.sae.evaluate.toy.tree import World
from matryo.sae.nn import SAE, SAEConfig, build
from matryo.sae.nn.levels import draw_levels
from matryo.spine.seeding import torch_generator


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """Bussmann et al. (2025), appendix C.1, with the target L0 that follows from the tree."""

    steps: int = 40_000
    batch_size: int = 200
    lr: float = 3e-2
    betas: tuple[float, float] = (0.5, 0.9375)
    warmup: int = 100
    "Steps in which the learning rate rises."
    cooldown: float = 0.2
    "Share of the steps, at the end, in which it falls to a tenth."
    clip: float = 1.0
    l1: float = 0.2
    "Weight λ of the L1 penalty at first, reached linearly over `l1_warmup` of the steps."
    l1_warmup: float = 0.2
    l1_rate: float = 0.0003
    "Afterwards λ is multiplied by 1 ± this at each step, towards the target L0."

    def lr_factor(self, step: int) -> float:
        """Share of the peak learning rate at a step: warm-up, stable, decay to a tenth."""
        last = round(self.cooldown * self.steps)
        falling = 1 - 0.9 * max(0, step - (self.steps - last)) / max(1, last)
        return min(1.0, (step + 1) / self.warmup) * falling


def train_dense(
    worlds: Sequence[World],
    seeds: Sequence[int],
    levels: Literal["none", "sampled"],
    config: DenseConfig,
    advance: Callable[[int], None] = lambda steps: None,
) -> list[SAE]:
    """Train one ReLU autoencoder for every world and seed, with as many latents as features.

    With z = relu((x − b_dec) W_enc + b_enc) and prefixes m of one draw of levels (the whole alone with `none`):

        L = mean_m ( mean_x ‖x − z_{:m} W_dec[:m] − b_dec‖² + λ mean_x Σ_{j<m} z_j ‖W_dec[j]‖ )

    λ follows the L0 of the batches towards the tree's own. Thousands of steps of 20 latents cost what starting them
    costs, so all seeds are stacked in one; nothing couples them.

    Returns:
        the autoencoders in eval mode.
    """
    features, d = worlds[0].directions.shape
    fresh = [build(SAEConfig(kind="relu", d_in=d, n_latents=features, levels=levels, seed=seed)) for seed in seeds]
    stacked = _stack(fresh)
    optimiser = torch.optim.Adam(stacked.values(), lr=config.lr, betas=config.betas)
    draws = [torch_generator(seed, "toy batches") for seed in seeds]
    prefixes = torch_generator(0, "toy levels")
    target = torch.tensor([world.tree.l0 for world in worlds])
    penalty = torch.full((len(seeds),), config.l1)
    held: list[Tensor] = []
    for step in range(config.steps):
        if not held:  # many batches at a time: one costs hardly less than twenty
            many = [w.sample(20 * config.batch_size, g)[0] for w, g in zip(worlds, draws, strict=True)]
            held = list(torch.stack(many).split(config.batch_size, 1))
        rising = min(1.0, (step + 1) / max(1, round(config.l1_warmup * config.steps)))
        loss, active = loss_of(stacked, held.pop(), draw_levels(fresh[0].config, prefixes), rising * penalty)
        optimiser.zero_grad()
        loss.sum().backward()
        _clip(stacked, config.clip)
        for group in optimiser.param_groups:
            group["lr"] = config.lr * config.lr_factor(step)
        optimiser.step()
        if rising == 1:
            penalty = penalty * (1 + config.l1_rate * torch.sign(active - target))
        advance(1)
    _unstack(stacked, fresh)
    return [sae.eval() for sae in fresh]


def loss_of(
    stacked: dict[str, Tensor],
    x: Float[Tensor, "seeds batch d"],
    levels: Sequence[int],
    penalty: Float[Tensor, "seeds"],
) -> tuple[Float[Tensor, "seeds"], Float[Tensor, "seeds"]]:
    """Every autoencoder's loss and L0 on its own batch."""
    W_dec, b_dec = stacked["W_dec"], stacked["b_dec"][:, None]
    z = torch.relu((x - b_dec) @ stacked["W_enc"] + stacked["b_enc"][:, None])
    lengths = z * torch.linalg.vector_norm(W_dec, dim=2)[:, None]
    total = x.new_zeros(len(x))
    x_hat, before, length = b_dec.expand_as(x), 0, x.new_zeros(x.shape[:2])
    for level in levels:
        x_hat = x_hat + z[..., before:level] @ W_dec[:, before:level]
        length = length + lengths[..., before:level].sum(2)
        total = total + (x - x_hat).square().sum(2).mean(1) + penalty * length.mean(1)
        before = level
    return total / len(levels), (z > 0).sum(2).float().mean(1).detach()


def _stack(saes: Sequence[SAE]) -> dict[str, Tensor]:
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    return {name: torch.stack([getattr(sae, name).detach() for sae in saes]).requires_grad_() for name in names}


@torch.no_grad()
def _unstack(stacked: dict[str, Tensor], saes: Sequence[SAE]) -> None:
    for name, values in stacked.items():
        for sae, value in zip(saes, values, strict=True):
            getattr(sae, name).copy_(value)


@torch.no_grad()
def _clip(stacked: dict[str, Tensor], most: float) -> None:
    """Bring every autoencoder's own gradient to a norm of at most `most`."""
    grads = [value.grad for value in stacked.values() if value.grad is not None]
    norm = sum(grad.flatten(1).square().sum(1) for grad in grads)
    factor = (most / torch.as_tensor(norm).sqrt().clamp(min=1e-12)).clamp(max=1)
    for grad in grads:
        grad.mul_(factor.view(-1, *[1] * (grad.dim() - 1)))
