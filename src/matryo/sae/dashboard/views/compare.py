"""Two SAEs: for every latent of one, how close the nearest decoder row of the other is."""

from __future__ import annotations

from typing import Any

import numpy as np

from matryo.sae.dashboard.index.opened import Index
from matryo.sae.dashboard.views.latent import chip
from matryo.sae.dashboard.views.query import Query

THRESHOLD = 0.7
"""Cosine above which two latents are called the same: the stitching paper's."""

LISTED = 25
DRAWN = 2_000


def compare_view(index: Index, query: Query) -> dict[str, Any]:
    """Largest cosines of `b`'s latents with `a`'s, their counts at a threshold, and the least matched that fire."""
    names = list(index.saes)
    a = index.sae(query.text("a") or names[0])
    b = index.sae(query.text("b") or next((name for name in names if name != a.name), a.name))
    threshold = query.number("threshold", THRESHOLD, -1, 1)
    view: dict[str, Any] = {"names": names, "a": a.name, "b": b.name, "threshold": threshold, "pairs": None}
    pairs = b.match(a.name)
    if pairs is None:
        return view
    best, cosine = np.asarray(pairs["latent"]), np.asarray(pairs["cosine"])
    back = a.match(b.name)
    mutual = (
        np.asarray(back["latent"])[best] == np.arange(b.n_latents) if back is not None else np.zeros(len(best), bool)
    )
    alive = b.stats["firings"] > 0
    order = np.flatnonzero(alive)
    order = order[np.lexsort((order, cosine[order]))]
    counts, _ = np.histogram(cosine, bins=40, range=(-0.2, 1))
    some = order if len(order) <= DRAWN else order[np.linspace(0, len(order) - 1, DRAWN).astype(int)]

    def row(i: int) -> dict[str, Any]:
        told = {**chip(b, int(i)), "cosine": float(cosine[i]), "match": chip(a, int(best[i]))}
        return told | {"mutual": bool(mutual[i])}

    view["pairs"] = {
        "matched": int((cosine >= threshold).sum()),
        "unmatched": int((cosine < threshold).sum()),
        "mutual": int(mutual.sum()),
        "mean": float(cosine.mean()),
        "histogram": {"counts": counts.tolist(), "low": -0.2, "high": 1.0},
        "points": [[float(cosine[i]), float(np.log10(b.stats["density"][i])), int(i)] for i in some],
        "least": [row(i) for i in order[:LISTED]],
        "most": [row(i) for i in order[::-1][:LISTED]],
    }
    return view
