"""Which latents a page shows, and the edits it tries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matryo.sae.compare.meta import Decomposition, MetaEdit, MetaSteering, MetaStudy
from matryo.sae.compare.meta_graph import META_SHOWN, graph_around
from matryo.sae.compare.meta_page import EXTREMES
from matryo.sae.compare.steering import measure_edits
from matryo.sae.lm import LM
from matryo.sae.nn import SAE

MIN_FIRINGS = 20
"""A latent has to fire on so many of the tokens read to be called decomposable or not: a dead one is neither."""

SEVERAL = 3
"""The latent shown by default has at least so many meta-latents, if any has."""


@dataclass(frozen=True)
class Shown:
    """The latents of a page."""

    latent: int
    most: tuple[int, ...]
    least: tuple[int, ...]
    latents: tuple[int, ...]
    "All of them, with those of the graph."


def choose_shown(parts: Decomposition, latent: int | None = None, firings: Tensor | None = None) -> Shown:
    """The most and the least decomposable latents among those that fire, and the one whose graph is drawn.

    Args:
        parts: the decomposition.
        latent: whose graph; the most decomposable with several meta-latents when not given.
        firings: of every latent; all count as firing when not given.
    """
    known = ~parts.explained.isnan()
    if firings is not None and bool((fires := known & (firings >= MIN_FIRINGS)).any()):
        known = fires
    alive = known.nonzero().view(-1)
    order = alive[torch.argsort(parts.explained[alive], descending=True, stable=True)]
    several = order[parts.counts[order] >= SEVERAL]
    chosen = int((several if len(several) else order)[0]) if latent is None else latent
    most, least = order[:EXTREMES].tolist(), order[-EXTREMES:].flip(0).tolist()
    latents = dict.fromkeys([chosen, *most, *least, *graph_around(parts, chosen).latents])
    return Shown(chosen, tuple(most), tuple(least), tuple(latents))


def effect_rows(
    lm: LM,
    tokens: Tensor,
    site: str,
    sae: SAE,
    study: MetaStudy,
    latent: int,
    add: Sequence[int] = (),
    advance: Callable[[int], None] = lambda tokens: None,
) -> list[tuple[Any, ...]]:
    """Take out each of a latent's strongest meta-latents, put others in, and take out the whole latent, in the model.

    A meta-latent that is added gets its mean activation over the latents that have it.

    Raises:
        ValueError: an added meta-latent does not exist, or no latent has it.
    """
    parts = study.decomposition
    own = parts.of_latent(latent)[:META_SHOWN]
    edits = {f"without m{part.meta}": MetaEdit(latent=latent, remove=(part.meta,)) for part in own}
    if len(own) > 1:
        edits["without all of these"] = MetaEdit(latent=latent, remove=tuple(part.meta for part in own))
    for number in add:
        having = parts.of_meta(number)
        if not having:
            raise ValueError(f"meta-latent {number} is of no latent; expected one with latents: choose another to add")
        strength = sum(part.activation for part in having) / len(having)
        edits[f"with m{number} at {strength:.2f}"] = MetaEdit(latent=latent, add=((number, strength),))
    edits["without the latent"] = MetaEdit(latent=latent, whole=True)
    steering = {name: MetaSteering(sae, study.meta, [edit]) for name, edit in edits.items()}
    rows = []
    for name, effect in measure_edits(lm, tokens, site, sae, latent, steering, advance=advance).items():
        words = [" ".join(f"«{p}»" for p in lm.decode_tokens(ids)) for ids in (effect.raised, effect.lowered)]
        rows.append((name, effect.tokens, effect.kl, *words))
    return rows
