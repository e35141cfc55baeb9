"""Meta-SAEs of autoencoders of a toy world, where the direction that rows may share was planted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

from matryo.sae.compare.meta.config import MetaConfig
from matryo.sae.compare.meta.decompose import decompose
from matryo.sae.compare.meta.fit import decoder_directions, fit_meta
from matryo.sae.evaluate.toy import KINDS, measure_recovery
from matryo.sae.evaluate.toy.config import ToyConfig
from matryo.sae.evaluate.toy.experiment import make_world, train_in


def explain_planted(
    seed: int,
    config: ToyConfig,
    metas: Mapping[str, MetaConfig],
    advance: Callable[[int], None] = lambda steps: None,
) -> dict[str, dict[str, float]]:
    """Train both kinds in one world and a meta-SAE of every setting on each.

    A vanilla child's row carries its parent's direction (absorption), so that the rows of one parent's children have
    it in common, and few meta-latents explain much of them; a Matryoshka's do not.

    Args:
        seed: of the world, the autoencoders and their batches; meta-SAEs have their settings' own.
        config: the world, training steps and samples for recovery; of a world with BatchTopK, not `paper`.
        metas: settings of meta-SAEs, by the name of the score.
        advance: told of steps done: 2 · (steps + those of the meta-SAEs).

    Returns:
        By kind: recovery of the planted features, and for every setting decoder variance explained.
    """
    world, found = make_world(config, seed), {}
    for kind in KINDS:
        sae = train_in(world, kind, seed, config.steps, advance)
        scores = asdict(measure_recovery(sae, world, config.samples, seed).recovery)
        directions = decoder_directions(sae)
        for name, meta in metas.items():
            scores[name] = decompose(fit_meta(directions, meta), directions).variance_explained
            advance(meta.steps)
        found[kind] = scores
    return found
