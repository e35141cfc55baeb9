"""One SAE's meta-SAE with everything that is measured of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matryo.sae.compare.meta.baselines import measure_baselines, meta_directions
from matryo.sae.compare.meta.config import MetaConfig
from matryo.sae.compare.meta.decompose import Decomposition, decompose
from matryo.sae.compare.meta.fit import fit_meta
from matryo.sae.compare.meta.neighbours import MATCHED, EdgeOverlap, measure_overlap, nearest
from matryo.sae.nn import SAE


@dataclass(frozen=True)
class SmallerSAE:
    """A meta-SAE beside a smaller SAE of the same site."""

    n_latents: int
    matched: float
    "Share of the meta-latents that have a latent there with a cosine above 0.7."
    mean_cosine: float
    "Mean over meta-latents of the largest cosine with a latent there."
    overlap: EdgeOverlap | None
    "None where no two latents share a meta-latent, or nearly all do."


@dataclass(frozen=True)
class MetaScores:
    """What is said of one meta-SAE in scores.json."""

    n_latents: int
    n_meta: int
    variance_explained: float
    "1 − Σ‖w − ŵ‖² / Σ‖w − w̄‖² over all unit decoder rows, at the inference threshold."
    l0: float
    "Mean active meta-latents per latent."
    dead: float
    "Share of meta-latents that no latent has."
    at_most_one: float
    "Share of latents with at most one meta-latent."
    own_matched: float
    "Share of meta-latents that have a latent of the SAE itself with a cosine above 0.7."
    random_cosine: float
    "Mean largest cosine of as many random directions with the SAE's latents: what chance gives `own_matched`'s cosine."
    baselines: dict[str, float]
    "Decoder variance explained by other dictionaries of the same size with refitted encoders."
    smaller: dict[str, SmallerSAE]


@dataclass(frozen=True)
class MetaStudy:
    """A meta-SAE, what it makes of the decoder, and its scores."""

    meta: SAE
    decomposition: Decomposition
    scores: MetaScores
    nearest: dict[str, tuple[Float[Tensor, "n_meta"], Int[Tensor, "n_meta"]]]
    "For every smaller SAE, and under '' the SAE itself: each meta-latent's largest cosine, and with which latent."


def study_meta(
    directions: Float[Tensor, "n_latents d"],
    config: MetaConfig,
    smaller: Mapping[str, Float[Tensor, "_ _"]] | None = None,
    baselines: bool = True,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> MetaStudy:
    """Train a meta-SAE and measure it.

    Args:
        directions: unit decoder rows of the SAE.
        config: sizes and training.
        smaller: unit decoder rows of smaller SAEs of the same site, by name.
        baselines: also refit encoders for other dictionaries, which takes about as long as training again.
        on_step: told (steps done, the trainer's numbers).

    Raises:
        ValueError: sizes that make no sense, or another width.
    """
    smaller = dict(smaller or {})
    for name, rows in smaller.items():
        if rows.shape[1] != directions.shape[1] or len(rows) >= len(directions):
            raise ValueError(
                f"{name} is {len(rows)} latents of width {rows.shape[1]}; expected fewer than {len(directions)} of "
                f"width {directions.shape[1]}: compare with smaller SAEs of the same site"
            )
    meta = fit_meta(directions, config, on_step)
    parts, vectors = decompose(meta, directions), meta_directions(meta)
    near = {name: nearest(vectors, rows) for name, rows in {"": directions, **smaller}.items()}
    generator = torch.Generator().manual_seed(config.meta_seed)
    random = torch.randn(vectors.shape, generator=generator).to(vectors)
    random /= torch.linalg.vector_norm(random, dim=1, keepdim=True)
    alive = ~parts.bias.isnan()
    scores = MetaScores(
        n_latents=len(directions),
        n_meta=len(vectors),
        variance_explained=parts.variance_explained,
        l0=float(parts.counts[alive].double().mean()),
        dead=float((parts.sizes == 0).double().mean()),
        at_most_one=float((parts.counts[alive] <= 1).double().mean()),
        own_matched=float((near[""][0] > MATCHED).double().mean()),
        random_cosine=float(nearest(random, directions)[0].mean()),
        baselines=measure_baselines(meta, directions, config, smaller) if baselines else {},
        smaller={
            name: SmallerSAE(
                n_latents=len(rows),
                matched=float((near[name][0] > MATCHED).double().mean()),
                mean_cosine=float(near[name][0].mean()),
                overlap=_overlap(parts, directions, rows),
            )
            for name, rows in smaller.items()
        },
    )
    return MetaStudy(meta, parts, scores, near)


def _overlap(parts: Decomposition, directions: Tensor, smaller: Tensor) -> EdgeOverlap | None:
    try:
        return measure_overlap(parts, directions, smaller)
    except ValueError:
        return None
