"""Vanilla against Matryoshka in toy worlds, over seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from matryo.sae.evaluate.intervals import Interval, mean_interval
from matryo.sae.evaluate.toy.config import ToyConfig
from matryo.sae.evaluate.toy.recovery import Found, Recovery, measure_recovery
from matryo.sae.evaluate.toy.training import DenseConfig, train_dense
from matryo.sae.evaluate.toy.tree import Draws, World, families_tree, generated_tree, paper_tree
from matryo.sae.nn import SAE, SAEConfig, build
from matryo.sae.train import TrainConfig, train

KINDS = ("vanilla", "matryoshka")
SCORES = tuple(f.name for f in fields(Recovery))
BATCH = 512
FAMILIES_WIDTH = 320
"""Dimensions of the families' 312 features: orthogonal, so that what rows share was planted, not forced on them."""


@dataclass(frozen=True, eq=False)
class Toy:
    """What was found in every world: by kind, one entry a seed."""

    config: ToyConfig
    worlds: tuple[World, ...]
    found: dict[str, tuple[Found, ...]]

    def values(self, kind: str, score: str) -> list[float]:
        """A score over seeds."""
        return [getattr(one.recovery, score) for one in self.found[kind]]

    def summary(self) -> dict[str, dict[str, Interval]]:
        """By score: the mean of each kind, and of the paired difference Matryoshka − vanilla, with intervals."""
        told = {}
        for score in SCORES:
            values = {kind: self.values(kind, score) for kind in KINDS}
            paired = [b - a for a, b in zip(values["vanilla"], values["matryoshka"], strict=True)]
            told[score] = {kind: mean_interval(values[kind]) for kind in KINDS} | {"difference": mean_interval(paired)}
        return told


def run_toy(
    config: ToyConfig,
    seeds: tuple[int, ...] | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> Toy:
    """Train both kinds in every world and measure recovery.

    paper: ReLU autoencoders with an L1 penalty that follows the tree's L0, Matryoshka prefixes sampled per batch
    (Bussmann et al., 2025, appendix C.1). generated, families: BatchTopK with k the tree's rounded L0, Matryoshka
    levels n/16 … n, trained as `matryo sae train` does.

    Args:
        config: the experiment.
        seeds: which worlds; 0 … toy_seeds − 1 when not given.
        advance: told of steps done, 2 · steps for paper, 2 · steps · seeds for the others.
    """
    seeds = tuple(range(config.toy_seeds)) if seeds is None else seeds
    worlds = tuple(make_world(config, seed) for seed in seeds)
    found: dict[str, tuple[Found, ...]] = {}
    for kind in KINDS:
        saes = _trained(config, kind, worlds, seeds, advance)
        found[kind] = tuple(
            measure_recovery(sae, world, config.samples, seed)
            for sae, world, seed in zip(saes, worlds, seeds, strict=True)
        )
    return Toy(config, worlds, found)


def make_world(config: ToyConfig, seed: int) -> World:
    """The world of one seed."""
    if config.world == "paper":
        return World.make(paper_tree(), 20, seed)
    if config.world == "families":
        return World.make(families_tree(), FAMILIES_WIDTH, seed, spread=0.1)
    tree = generated_tree(config.features, l0=config.toy_l0, seed=seed)
    return World.make(tree, config.width, seed, spread=0.1)


def train_in(
    world: World, kind: str, seed: int, steps: int, advance: Callable[[int], None] = lambda steps: None
) -> SAE:
    """One BatchTopK autoencoder of a world, vanilla or Matryoshka, with as many latents as features."""
    features, d = world.directions.shape
    levels = "none" if kind == "vanilla" else "nested"
    k, told = round(world.tree.l0), 0
    sae = build(SAEConfig(kind="batch_topk", d_in=d, n_latents=features, k=k, levels=levels, seed=seed))

    def on_step(step: int, numbers: dict[str, float]) -> None:
        nonlocal told
        advance(step - told)
        told = step

    training = TrainConfig(steps=steps, lr=3e-3, dead_after=50_000, checkpoint_every=0, log_every=100)
    train(sae, Draws(world, BATCH, seed), training, on_step=on_step)
    return sae


def _trained(
    config: ToyConfig,
    kind: str,
    worlds: tuple[World, ...],
    seeds: tuple[int, ...],
    advance: Callable[[int], None],
) -> list[SAE]:
    if config.world == "paper":
        levels = "none" if kind == "vanilla" else "sampled"
        return train_dense(worlds, seeds, levels, DenseConfig(steps=config.steps), advance)
    return [train_in(world, kind, seed, config.steps, advance) for world, seed in zip(worlds, seeds, strict=True)]
