"""Latents that split as a family of SAEs grows, seen through one meta-SAE of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from matryo.sae.compare.meta.config import MetaConfig
from matryo.sae.compare.meta.decompose import Decomposition, decompose
from matryo.sae.compare.meta.fit import fit_meta
from matryo.sae.compare.meta.neighbours import MATCHED
from matryo.sae.nn import SAE


@dataclass(frozen=True)
class Split:
    """A latent and those of the next larger SAE whose decoder rows are like its own."""

    smaller: str
    larger: str
    latent: int
    children: tuple[int, ...]
    meta: int
    "Meta-latents of the latent."
    child_meta: float
    "Mean meta-latents of its children."
    kept: float
    "Mean share of the latent's meta-latents that a child has too; nan where it has none."
    added: float
    "Mean number of meta-latents that a child has and the latent has not."


@dataclass(frozen=True)
class FamilyStudy:
    """One meta-SAE of all decoder rows of a family, what it makes of every size, and the latents that split."""

    meta: SAE
    decompositions: dict[str, Decomposition]
    "By SAE, from the smallest on."
    variance_explained: float
    "Over all rows of the family."
    splits: tuple[Split, ...]

    def scores(self) -> dict[str, Any]:
        """What is said of the family in scores.json."""
        return {
            "variance_explained": self.variance_explained,
            "n_meta": self.meta.config.n_latents,
            "saes": {
                name: {"variance_explained": parts.variance_explained, "l0": float(parts.counts.double().mean())}
                for name, parts in self.decompositions.items()
            },
            "splits": len(self.splits),
        }


def study_family(
    family: Mapping[str, Float[Tensor, "_ d"]],
    config: MetaConfig,
    threshold: float = MATCHED,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> FamilyStudy:
    """Train one meta-SAE on the decoder rows of a whole family, and follow latents from size to size.

    A latent of one size splits if two or more latents of the next have a cosine above the threshold with it (0.7 in the
    paper): these are its children.

    Args:
        family: unit decoder rows by name.
        config: sizes and training; `fraction` counts the rows of all sizes.
        threshold: the cosine.
        on_step: told (steps done, the trainer's numbers).

    Raises:
        ValueError: fewer than two sizes, or different widths.
    """
    ordered = dict(sorted(family.items(), key=lambda item: len(item[1])))
    widths = {len(rows[0]) for rows in ordered.values()}
    if len(ordered) < 2 or len(widths) > 1:
        raise ValueError(
            f"the family has {len(ordered)} SAEs of widths {sorted(widths)}; expected two or more of one width"
        )
    everything = torch.cat(list(ordered.values()))
    meta = fit_meta(everything, config, on_step)
    found = {name: decompose(meta, rows) for name, rows in ordered.items()}
    splits = [
        split
        for (small, rows), (large, more) in pairwise(ordered.items())
        for split in find_splits((small, rows, found[small]), (large, more, found[large]), threshold)
    ]
    return FamilyStudy(meta, found, decompose(meta, everything).variance_explained, tuple(splits))


def find_splits(
    smaller: tuple[str, Tensor, Decomposition], larger: tuple[str, Tensor, Decomposition], threshold: float = MATCHED
) -> list[Split]:
    """The latents of one SAE that split in another, each with (name, unit decoder rows, decomposition)."""
    (small, rows, parent), (large, more, child) = smaller, larger
    splits = []
    parents, children = _sets(parent), _sets(child)
    for start, part in zip(range(0, len(rows), 1024), rows.split(1024), strict=True):
        near = part @ more.t() > threshold
        for offset in (near.sum(1) > 1).nonzero().view(-1).tolist():
            latent, own = start + offset, parents[start + offset]
            who = near[offset].nonzero().view(-1).tolist()
            theirs = [children[i] for i in who]
            splits.append(
                Split(
                    smaller=small,
                    larger=large,
                    latent=latent,
                    children=tuple(who),
                    meta=len(own),
                    child_meta=sum(map(len, theirs)) / len(who),
                    kept=sum(len(own & one) for one in theirs) / (len(who) * len(own)) if own else float("nan"),
                    added=sum(len(one - own) for one in theirs) / len(who),
                )
            )
    return splits


def _sets(decomposition: Decomposition) -> list[set[int]]:
    """Every latent's meta-latents."""
    parts = decomposition.meta.split(decomposition.counts.tolist())
    return [set(part.tolist()) for part in parts]
