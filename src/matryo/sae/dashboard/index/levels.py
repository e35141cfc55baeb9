"""Matryoshka levels: which latents of lower levels fire where a latent fires, and point where it points.

For a child c and a candidate p of a lower level, with F(x) the set of tokens on which x fires:

    containment = |F(p) ∩ F(c)| / |F(c)| = P(p fires | c fires)
    covered     = |F(p) ∩ F(c)| / |F(p)| = P(c fires | p fires)
    cosine      = d_p · d_c, of unit decoder rows

Containment alone joins any latent to whatever fires nearly everywhere, so a page asks for both. It is containment, not
"is a": nothing says that the child's concept is a kind of the parent's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

EDGE = np.dtype(
    [
        ("child", "<u4"),
        ("parent", "<u4"),
        ("together", "<u4"),
        ("containment", "<f4"),
        ("covered", "<f4"),
        ("cosine", "<f4"),
    ]
)

CONTAINMENT, COSINE = 0.5, 0.15
"""Both asked of a parent unless a page moves them: most of the child's firings, and a direction that chance does not
give (random directions in 576 dimensions have cosines with a standard deviation of 0.04)."""


def level_of(n_latents: int, lengths: tuple[int, ...]) -> NDArray[np.int16]:
    """The number of every latent's level, 0 for the smallest prefix."""
    return np.searchsorted(np.asarray(lengths), np.arange(n_latents), "right").astype(np.int16)


def choose_parents(
    edges: NDArray[Any], n_latents: int, containment: float = CONTAINMENT, cosine: float = COSINE
) -> NDArray[np.int32]:
    """For every latent the candidate with the largest containment × cosine among those of both thresholds, else −1."""
    parent = np.full(n_latents, -1, np.int32)
    enough = edges[(edges["containment"] >= containment) & (edges["cosine"] >= cosine)]
    order = np.lexsort((enough["parent"], -enough["containment"] * enough["cosine"], enough["child"]))
    best = enough[order]
    _, places = np.unique(best["child"], return_index=True)
    parent[best["child"][places]] = best["parent"][places]
    return parent
