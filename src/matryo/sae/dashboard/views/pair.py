"""Two latents side by side: of one SAE, such as a child and its parent, or of two SAEs."""

from __future__ import annotations

from typing import Any

import numpy as np

from matryo.sae.dashboard.index.opened import Index, IndexedSAE
from matryo.sae.dashboard.views.examples import SCANNED, distinct, passage
from matryo.sae.dashboard.views.latent import chip
from matryo.sae.dashboard.views.query import Query

SHOWN = 6
BEFORE, AFTER = 16, 6


def pair_view(index: Index, query: Query) -> dict[str, Any]:
    """Latent `i` of `a` and latent `j` of `b`: cosine, how often both are active, and passages of each case.

    With F the firings: containment P(b | a) = |F(a) ∩ F(b)| / |F(a)|, Jaccard = |F(a) ∩ F(b)| / |F(a) ∪ F(b)|. Passages
    are the strongest of different rows and words; those on which both are active come by the product of activations.
    """
    names = list(index.saes)
    a = index.sae(query.text("a") or names[0])
    b = index.sae(query.text("b") or a.name)
    i, j = (sae.check(query.whole(name, 0, 0)) for sae, name in ((a, "i"), (b, "j")))
    (first, first_acts), (second, second_acts) = a.firings(i), b.firings(j)
    both, at_first, at_second = np.intersect1d(first, second, return_indices=True)
    product = first_acts[at_first].astype(np.float64) * second_acts[at_second]
    cases = {
        "both": both[np.lexsort((both, -product))],
        "first": first[~np.isin(first, both)],
        "second": second[~np.isin(second, both)],
    }
    union = len(first) + len(second) - len(both)
    same_width = a.units.shape[1] == b.units.shape[1]
    return {
        "a": _told(a, i),
        "b": _told(b, j),
        "names": names,
        "cosine": float(a.units[i] @ b.units[j]) if same_width else None,
        "together": len(both),
        "p_second": len(both) / len(first) if len(first) else None,
        "p_first": len(both) / len(second) if len(second) else None,
        "jaccard": len(both) / union if union else None,
        "cases": {
            case: {"count": len(tokens), "examples": _examples(a, i, b, j, tokens, b if case == "second" else a)}
            for case, tokens in cases.items()
        },
    }


def _told(sae: IndexedSAE, latent: int) -> dict[str, Any]:
    row = sae.stats[latent]
    counts = sae.histograms[latent].tolist()
    return {**chip(sae, latent), "firings": int(row["firings"]), "largest": float(row["largest"]), "histogram": counts}


def _examples(a: IndexedSAE, i: int, b: IndexedSAE, j: int, tokens: np.ndarray, by: IndexedSAE) -> list[dict[str, Any]]:
    """Passages around some tokens, each with the activations of both latents."""
    chosen, _ = distinct(by, tokens[:SCANNED], SHOWN)
    return [{"a": passage(a, i, token, BEFORE, AFTER), "b": passage(b, j, token, BEFORE, AFTER)} for token in chosen]
