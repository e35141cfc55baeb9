"""The first page, and the overview of one SAE."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np

from matryo.sae.dashboard.index.opened import Index, IndexedSAE
from matryo.sae.dashboard.views.latent import chip, plain

DUPLICATE = 0.95
"""Cosine of decoder rows above which two latents are called duplicates."""

LEAST_FIRINGS = 20
"""Of latents that are put forward: with fewer, their numbers are noise."""

ENOUGH_FIRINGS = 128
"""More do not make a latent better worth seeing."""

FREQUENT = 50
"""The most frequent token ids of a text, on which a latent says little that a reader wants to see first."""

PARENT_BITS = 6.0
"""Largest entropy of the tokens of a parent that is put forward: of one that is active on anything, nothing is seen."""


def home_view(index: Index) -> dict[str, Any]:
    """All SAEs of the index, those with levels first, and what was indexed."""
    told = index.manifest
    return {
        "saes": [
            {
                "name": name,
                "site": sae.told["site"],
                "kind": sae.told["config"]["kind"],
                "n_latents": sae.n_latents,
                "levels": len(sae.lengths),
                "l0": sae.told["l0"],
                "dead": sae.told["dead"],
                "role": sae.told["role"],
                "run": sae.told["run"],
                "start": [_with_parent(sae, i) for i in worth_seeing(sae, 8)],
            }
            for name, sae in sorted(index.saes.items(), key=lambda one: len(one[1].lengths) == 1)
        ],
        "corpus": index.corpus.about(),
        "about": {key: told["about"][key] for key in told["about"] if key != "lm_identity"},
        "lm_identity": told["about"].get("lm_identity", {}),
        "made": told["made"],
        "hash": index.hash,
    }


def _with_parent(sae: IndexedSAE, latent: int) -> dict[str, Any]:
    parent = int(sae.stats["parent"][latent])
    return chip(sae, latent) | {"parent": chip(sae, parent) if parent >= 0 else None}


def worth_seeing(sae: IndexedSAE, count: int) -> list[int]:
    """Latents to begin with: often active on few token ids, mostly on a word, and with a parent where there are levels.

    By falling min(firings, ENOUGH_FIRINGS) / 2^entropy, among those active on at least LEAST_FIRINGS tokens with an
    entropy of at most 4 bits whose most frequent token has three letters or more; one for each such token. As far as
    that leaves enough, the FREQUENT most frequent ids are passed over, and parents of more than PARENT_BITS.
    """
    stats, corpus = sae.stats, sae.index.corpus
    ids, which = np.unique(stats["top_token"], return_inverse=True)
    words = np.array([i >= 0 and sum(map(str.isalpha, corpus.piece(int(i)))) >= 3 for i in ids])
    fit = (stats["firings"] >= LEAST_FIRINGS) & (stats["entropy"] <= 4) & words[which]
    if len(sae.lengths) > 1 and (fit & (stats["parent"] >= 0)).any():
        fit &= stats["parent"] >= 0
    common = np.isin(ids, np.argsort(-corpus.counts, kind="stable")[:FREQUENT])
    told = (stats["parent"] < 0) | (stats["entropy"][stats["parent"]] <= PARENT_BITS)
    for rarer in (fit & told & ~common[which], fit & told, fit & ~common[which]):
        if len(np.unique(stats["top_token"][rarer])) >= count:
            fit = rarer
            break
    places = np.flatnonzero(fit)
    score = np.log2(np.minimum(stats["firings"][places], ENOUGH_FIRINGS)) - stats["entropy"][places]
    order = places[np.lexsort((places, -score))]
    _, first = np.unique(stats["top_token"][order], return_index=True)
    return order[np.sort(first)][:count].tolist()


def overview_view(sae: IndexedSAE) -> dict[str, Any]:
    """Densities, dead latents by what is known of them, levels, and latents to begin with."""
    stats = sae.stats
    alive = stats["firings"] > 0
    logs = np.log10(stats["density"][alive])
    low, high = (float(np.floor(logs.min())), 0.0) if len(logs) else (-6.0, 0.0)
    counts, _ = np.histogram(logs, bins=48, range=(low, high))
    twins = stats["twin_cosine"] > DUPLICATE
    levels = []
    for level, (first, last) in enumerate(pairwise([0, *sae.lengths])):
        own = stats[first:last]
        levels.append(
            {
                "level": level,
                "from": first,
                "to": last,
                "dead": int((own["firings"] == 0).sum()),
                "l0": float(own["firings"].sum() / sae.index.corpus.n_tokens),
                "median_density": plain(np.median(own["density"])),
                "with_parent": int((own["parent"] >= 0).sum()),
            }
        )
    firing = np.flatnonzero(stats["firings"] >= LEAST_FIRINGS)
    specific = firing[np.lexsort((firing, stats["entropy"][firing]))][:12]
    broad = firing[np.lexsort((firing, -stats["entropy"][firing]))][:12]
    return {
        "sae": sae.name,
        "site": sae.told["site"],
        "config": sae.told["config"],
        "run": sae.told["run"],
        "n_latents": sae.n_latents,
        "l0": sae.told["l0"],
        "tokens": sae.index.corpus.n_tokens,
        "density": {
            "counts": counts.tolist(),
            "low": low,
            "high": high,
            "links": _links(sae.name, low, high, len(counts)),
        },
        "dead": {
            "never": int((~alive).sum()),
            "never_and_duplicate": int((~alive & twins).sum()),
            "duplicates": int(twins.sum()),
            "of": sae.n_latents,
        },
        "levels": levels,
        "start": [chip(sae, i) for i in worth_seeing(sae, 16)],
        "specific": [chip(sae, int(i)) for i in specific],
        "broad": [chip(sae, int(i)) for i in broad],
    }


def _links(sae: str, low: float, high: float, bins: int) -> list[str]:
    """For every bar, the table of its latents."""
    edges = 10 ** np.linspace(low, high, bins + 1)
    wheres = [f"density>={a:.9g} density<={b:.9g}" for a, b in pairwise(edges)]
    return [f"/sae/{quote(sae, safe='')}/latents?{urlencode({'where': where})}" for where in wheres]
