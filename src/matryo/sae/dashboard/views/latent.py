"""The page of one latent."""

from __future__ import annotations

from typing import Any

import numpy as np

from matryo.sae.dashboard.index.invert import BINS
from matryo.sae.dashboard.index.opened import IndexedSAE
from matryo.sae.dashboard.index.statistics import COLUMNS
from matryo.sae.dashboard.views.examples import examples, pieces_of, token_table
from matryo.sae.dashboard.views.query import Query

NEIGHBOURS = 12
NEURONS = 5
TOGETHER_TOKENS = 20_000
"""Firings looked through for co-activations; of more, evenly many from strongest to weakest."""


def latent_view(sae: IndexedSAE, latent: int, query: Query) -> dict[str, Any]:
    """Everything of one latent that takes no search: numbers, histogram, tokens, logits, examples, family."""
    row = sae.stats[sae.check(latent)]
    _, acts = sae.firings(latent)
    return {
        "sae": sae.name,
        "latent": latent,
        "n_latents": sae.n_latents,
        "site": sae.told["site"],
        "tokens": sae.index.corpus.n_tokens,
        "stats": {name: plain(row[name]) for name in COLUMNS},
        "rank": int((sae.stats["firings"] > row["firings"]).sum()),
        "histogram": {"counts": sae.histograms[latent].tolist(), "largest": float(row["largest"]), "bins": BINS},
        "smallest": float(acts[-1]) if len(acts) else None,
        "scale": query.choice("scale", ("log", "linear"), "log"),
        "top_tokens": token_table(sae, latent),
        "logits": logits_of(sae, latent),
        "family": family(sae, latent),
        "matches": matches_of(sae, latent),
        "neurons": neurons_of(sae, latent),
        "examples": examples(sae, latent, query),
    }


def plain(value: Any) -> Any:
    """A NumPy number as JSON has it; nan as None."""
    value = value.item()
    return None if isinstance(value, float) and value != value else value


def logits_of(sae: IndexedSAE, latent: int) -> dict[str, Any] | None:
    """The tokens whose logits the decoder row raises and lowers most; None where they were not indexed."""
    if not sae.told["logits"]:
        return None
    ends = {}
    for end in ("top", "low"):
        ids, values = sae.logits(f"{end}_token")[latent], sae.logits(end)[latent]
        ends[end] = [
            {"token_id": int(i), "piece": piece, "value": float(v)}
            for i, piece, v in zip(ids, pieces_of(sae, ids), values, strict=True)
        ]
    counts = sae.logits("histogram")[latent].tolist()
    return {**ends, "histogram": {"counts": counts, "low": ends["low"][0]["value"], "high": ends["top"][0]["value"]}}


def matches_of(sae: IndexedSAE, latent: int) -> list[dict[str, Any]]:
    """The latent with the most similar decoder row in each other SAE for which they were computed."""
    found = []
    for name in sae.told["matches"]:
        pairs = sae.match(name)
        if pairs is not None:
            best = pairs[latent]
            found.append({**chip(sae.index.sae(name), int(best["latent"])), "cosine": float(best["cosine"])})
    return found


def neurons_of(sae: IndexedSAE, latent: int) -> list[dict[str, Any]]:
    """The largest coordinates of the decoder row w, with their share |w_i| / Σ|w|: its alignment with neurons."""
    row = sae.units[latent] * sae.stats["norm"][latent]
    sizes = np.abs(row)
    best = np.argsort(-sizes, kind="stable")[:NEURONS]
    total = float(sizes.sum()) or 1.0
    return [{"neuron": int(i), "value": float(row[i]), "share": float(sizes[i]) / total} for i in best]


def family(sae: IndexedSAE, latent: int) -> dict[str, Any]:
    """Its level, candidate parents (the chosen first, then by containment × cosine), and its children."""
    edges, stats = sae.edges, sae.stats
    low = int(np.searchsorted(edges["child"], latent))
    mine = edges[low : int(np.searchsorted(edges["child"], latent, "right"))]
    children = np.flatnonzero(stats["parent"] == latent)
    children = children[np.lexsort((children, -stats["firings"][children]))]
    level = int(stats["level"][latent])
    return {
        "levels": len(sae.lengths),
        "level": level,
        "from": ([0, *sae.lengths])[level],
        "to": sae.lengths[level],
        "parent": int(stats["parent"][latent]),
        "candidates": [
            {
                **chip(sae, int(e["parent"])),
                "containment": float(e["containment"]),
                "covered": float(e["covered"]),
                "cosine": float(e["cosine"]),
            }
            for e in sorted(
                mine, key=lambda e: (e["parent"] != stats["parent"][latent], -e["containment"] * e["cosine"])
            )
        ],
        "children": [
            {
                **chip(sae, int(c)),
                "containment": plain(stats["parent_containment"][c]),
                "cosine": plain(stats["parent_cosine"][c]),
            }
            for c in children[:50]
        ],
        "n_children": len(children),
    }


def chip(sae: IndexedSAE, latent: int) -> dict[str, Any]:
    """A latent as it is named on other pages."""
    row = sae.stats[latent]
    top = int(row["top_token"])
    return {
        "sae": sae.name,
        "latent": latent,
        "level": int(row["level"]),
        "density": float(row["density"]),
        "piece": sae.index.corpus.piece(top) if top >= 0 else "",
    }


def card_view(sae: IndexedSAE, latent: int) -> dict[str, Any]:
    """A small card: numbers, histogram and two examples."""
    row = sae.stats[sae.check(latent)]
    shown = examples(sae, latent, Query({"before": "8", "after": "3"}))["groups"][0]["examples"][:2]
    return {
        **chip(sae, latent),
        "largest": float(row["largest"]),
        "histogram": {"counts": sae.histograms[latent].tolist(), "largest": float(row["largest"]), "bins": BINS},
        "examples": shown,
    }


def neighbours_view(sae: IndexedSAE, latent: int) -> dict[str, Any]:
    """The most similar decoder rows, in this SAE and in the others of the same width, by cosine."""
    sae.check(latent)
    found = []
    for other in sae.index.saes.values():
        if other.units.shape[1] != sae.units.shape[1]:
            continue
        cosines = sae.cosines(latent, other)
        if other is sae:
            cosines[latent] = -2
        count = min(NEIGHBOURS, len(cosines) - int(other is sae))
        best = np.argpartition(-cosines, max(0, count - 1))[:count] if count else np.zeros(0, np.int64)
        best = best[np.lexsort((best, -cosines[best]))]
        rows = [{**chip(other, int(i)), "cosine": float(cosines[i])} for i in best]
        found.append({"sae": other.name, "same": other is sae, "rows": rows})
    return {"sae": sae.name, "latent": latent, "neighbours": found}


def together_view(sae: IndexedSAE, latent: int, count: int = 15) -> dict[str, Any]:
    """Latents active on the same tokens: how often, both conditional probabilities, lift and Jaccard index.

    With F the firings: P(b | a) = |F(a) ∩ F(b)| / |F(a)|, lift = P(b | a) / P(b),
    Jaccard = |F(a) ∩ F(b)| / |F(a) ∪ F(b)|.
    Where only a part of the firings of `a` is looked through, |F(a) ∩ F(b)| is scaled up from it.
    """
    tokens, _ = sae.firings(sae.check(latent))
    firings = sae.stats["firings"].astype(np.float64)
    looked = np.asarray(tokens)
    if len(looked) > TOGETHER_TOKENS:
        looked = looked[np.linspace(0, len(looked) - 1, TOGETHER_TOKENS).astype(np.int64)]
    shared = sae.together(looked).astype(np.float64)
    shared[latent] = 0
    scale = len(tokens) / max(1, len(looked))
    both = np.minimum(shared * scale, firings)
    jaccard = both / np.maximum(1, firings + len(tokens) - both)
    lift = both / np.maximum(1, len(tokens)) / np.maximum(firings / sae.index.corpus.n_tokens, 1e-12)
    rows = {}
    for order, score in (("jaccard", jaccard), ("lift", np.where(shared >= 5, lift, 0))):
        best = np.argsort(-score, kind="stable")[:count]
        rows[order] = [
            {
                **chip(sae, int(i)),
                "together": round(float(both[i])),
                "p_other": float(both[i] / max(1, len(tokens))),
                "p_this": float(both[i] / max(1, firings[i])),
                "lift": float(lift[i]),
                "jaccard": float(jaccard[i]),
            }
            for i in best
            if score[i] > 0
        ]
    return {"sae": sae.name, "latent": latent, "looked": len(looked), "firings": len(tokens), "by": rows}
