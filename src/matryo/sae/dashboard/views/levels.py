"""The Matryoshka tree: parents and children at thresholds the reader moves, and suspects of absorption."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.sae.dashboard.index.levels import CONTAINMENT, COSINE, choose_parents
from matryo.sae.dashboard.index.opened import IndexedSAE
from matryo.sae.dashboard.views.examples import draw, passage
from matryo.sae.dashboard.views.latent import chip
from matryo.sae.dashboard.views.query import Query

ROOTS = 30
MOST_NODES = 500
SUSPECTS = 20
CONTEXTS = 3


def levels_view(sae: IndexedSAE, query: Query) -> dict[str, Any]:
    """The tree at two thresholds, from one root or from the roots with most descendants, and suspects.

    A suspect of absorption is a pair whose directions are close although the parent is often silent where the child
    fires: of cosine at least the threshold and containment below it. They come by cosine × (1 − containment) × firings
    of the child.
    """
    containment = query.number("containment", CONTAINMENT, 0, 1)
    cosine = query.number("cosine", COSINE, -1, 1)
    root = query.whole("root", -1, -1, sae.n_latents - 1)
    edges = sae.edges
    if [containment, cosine] == sae.told.get("parent_at"):
        parent = sae.stats["parent"]  # chosen at these when the index was made
    else:
        parent = choose_parents(edges, sae.n_latents, containment, cosine)
    children: dict[int, list[int]] = {}
    for child in np.flatnonzero(parent >= 0).tolist():
        children.setdefault(int(parent[child]), []).append(child)
    sizes = _descendants(parent)
    if root >= 0:
        roots = [root]
    else:
        tops = [p for p in children if parent[p] < 0]
        roots = sorted(tops, key=lambda p: (-sizes[p], p))[:ROOTS]
    budget = [MOST_NODES]
    several = _several_parents(edges, containment, cosine)
    chosen = {(int(e["child"]), int(e["parent"])): e for e in edges[parent[edges["child"]] == edges["parent"]]}
    trees = [_node(sae, r, children, chosen, sizes, several, budget) for r in roots]
    return {
        "sae": sae.name,
        "lengths": sae.lengths,
        "containment": containment,
        "cosine": cosine,
        "root": root,
        "with_parent": int((parent >= 0).sum()),
        "n_roots": sum(1 for p in children if parent[p] < 0),
        "trees": trees,
        "up": _ancestors(sae, parent, root),
        "cut": budget[0] <= 0,
        "suspects": suspects(sae, containment, cosine, root),
    }


def _descendants(parent: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many latents are below each; children have larger numbers than their parents."""
    sizes = np.zeros(len(parent), np.int64)
    for child in np.flatnonzero(parent >= 0)[::-1]:
        sizes[parent[child]] += 1 + sizes[child]
    return sizes


def _several_parents(edges: NDArray[Any], containment: float, cosine: float) -> set[int]:
    enough = edges[(edges["containment"] >= containment) & (edges["cosine"] >= cosine)]
    found, count = np.unique(enough["child"], return_counts=True)
    return set(found[count > 1].tolist())


def _node(
    sae: IndexedSAE, latent: int, children: Any, chosen: Any, sizes: Any, several: set[int], budget: list[int]
) -> dict[str, Any]:
    budget[0] -= 1
    below = []
    for child in children.get(latent, ()):
        if budget[0] <= 0:
            break
        edge = chosen[child, latent]
        below.append(
            _node(sae, child, children, chosen, sizes, several, budget)
            | {"containment": float(edge["containment"]), "cosine": float(edge["cosine"])}
        )
    told = {**chip(sae, latent), "firings": int(sae.stats["firings"][latent]), "descendants": int(sizes[latent])}
    return told | {"several": latent in several, "children": below}


def _ancestors(sae: IndexedSAE, parent: NDArray[np.int32], latent: int) -> list[dict[str, Any]]:
    found = []
    while latent >= 0 and parent[latent] >= 0:
        latent = int(parent[latent])
        found.append(chip(sae, latent))
    return found[::-1]


def suspects(sae: IndexedSAE, containment: float, cosine: float, root: int = -1) -> list[dict[str, Any]]:
    """Pairs close in direction whose parent is silent where the child fires, with passages where it is."""
    edges, stats = sae.edges, sae.stats
    fit = edges[(edges["cosine"] >= cosine) & (edges["containment"] < containment)]
    if root >= 0:
        fit = fit[(fit["parent"] == root) | (fit["child"] == root)]
    firings = stats["firings"][fit["child"]]
    score = fit["cosine"] * (1 - fit["containment"]) * firings
    if len(score) > 50 * SUSPECTS:  # sorting half a million pairs takes longer than the rest of the page
        best = np.partition(score, len(score) - SUSPECTS)[-SUSPECTS]
        fit, score = fit[score >= best], score[score >= best]
    order = np.lexsort((fit["child"], -score))[:SUSPECTS]
    found = []
    for edge in fit[order]:
        child, parent = int(edge["child"]), int(edge["parent"])
        tokens, _ = sae.firings(child)
        alone = np.setdiff1d(tokens, sae.firings(parent)[0])
        found.append(
            {
                "child": chip(sae, child),
                "parent": chip(sae, parent),
                "cosine": float(edge["cosine"]),
                "containment": float(edge["containment"]),
                "alone": len(alone),
                "firings": len(tokens),
                "largest": float(stats["largest"][child]),
                "examples": [passage(sae, child, t, 14, 5) for t in draw(alone, CONTEXTS, "alone", child, parent)],
            }
        )
    return found
