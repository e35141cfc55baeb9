"""Passages on which a latent is active, chosen in several ways, each exact over the whole text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.sae.dashboard.index.opened import IndexedSAE
from matryo.sae.dashboard.views.query import Query

TABS = {
    "top": "strongest",
    "intervals": "by interval",
    "quantiles": "by quantile",
    "random": "at random",
    "weakest": "weakest",
    "silent": "silent on its token",
}
"""The ways of choosing."""

SHOWN = 20
GROUPS = 5
"""Intervals, and quantiles."""

SCANNED = 2_000
"""Firings looked through, from the strongest on, for passages of different rows and words."""

ALIKE_BEFORE, ALIKE_AFTER = 5, 1
"""Passages are called similar when these tokens around their peaks are the same ids."""


def examples(sae: IndexedSAE, latent: int, query: Query) -> dict[str, Any]:
    """The passages of one tab, in groups.

    `top` shows one passage per row, and passages alike once, with how many there are; `intervals` and `quantiles` draw
    from each fifth of the activation's range and of the firings; `weakest` are the smallest activations; `silent` are
    tokens of its most frequent id on which it is not active. Draws depend on the latent's number only. With `from` and
    `to` only activations from ≤ a < to are looked at: what a bar of the histogram counts.
    """
    tab = query.choice("tab", TABS, "top")
    before, after = query.whole("before", 24, 0, 128), query.whole("after", 8, 0, 128)
    low, high = query.number("from", 0.0, 0), query.number("to", float("inf"), 0)
    tokens, acts = sae.firings(latent)
    if low > 0 or np.isfinite(high):
        # In the precision of activations, so that an edge and an activation that are written alike are equal.
        ends = np.maximum([-high, -low], np.finfo(np.float32).min).astype(np.float32)
        first, stop = np.searchsorted(-acts, ends, "right").tolist()
        inside = slice(first, stop)
        tokens, acts = tokens[inside], acts[inside]
    shown = lambda chosen: [passage(sae, latent, int(t), before, after) for t in chosen]  # noqa: E731
    groups: list[dict[str, Any]] = []
    if tab == "top":
        chosen, counts = distinct(sae, tokens[:SCANNED], SHOWN)
        groups = [{"title": "", "count": len(tokens), "examples": shown(chosen)}]
        for example, count in zip(groups[0]["examples"], counts, strict=True):
            example["similar"] = count
    elif tab in ("intervals", "quantiles"):
        for title, part in _fifths(acts, tab):
            drawn = draw(tokens[part], SHOWN // GROUPS, sae.name, latent, title)
            groups.append({"title": title, "count": len(tokens[part]), "examples": shown(drawn)})
    elif tab == "random":
        groups = [
            {"title": "", "count": len(tokens), "examples": shown(draw(tokens, SHOWN, sae.name, latent, "random"))}
        ]
    elif tab == "weakest":
        groups = [{"title": "", "count": len(tokens), "examples": shown(tokens[-SHOWN:][::-1])}]
    else:
        silent = silent_tokens(sae, latent)
        groups = [
            {"title": "", "count": len(silent), "examples": shown(draw(silent, SHOWN, sae.name, latent, "silent"))}
        ]
    return {
        "tab": tab,
        "groups": groups,
        "before": before,
        "after": after,
        "from": low,
        "to": high if np.isfinite(high) else None,
    }


def _fifths(acts: NDArray, kind: str) -> list[tuple[str, slice]]:
    """Parts of a descending list of activations, the strongest first, with what to call them."""
    if not len(acts):
        return []
    parts = []
    for i in range(GROUPS):
        if kind == "intervals":
            top = float(acts[0])
            high, low = top * (GROUPS - i) / GROUPS, top * (GROUPS - i - 1) / GROUPS
            # Of (low, high], so that every firing is in one.
            part = slice(int(np.searchsorted(-acts, np.float32(-high))) if i else 0, int(np.searchsorted(-acts, -low)))
            parts.append((f"{low:.3g} – {high:.3g}", part))
        else:
            bounds = [round(len(acts) * j / GROUPS) for j in (i, i + 1)]
            share = 100 // GROUPS
            parts.append((f"{100 - share * (i + 1)} – {100 - share * i} %", slice(*bounds)))
    return parts


def silent_tokens(sae: IndexedSAE, latent: int) -> NDArray[np.int64]:
    """Tokens of the latent's most frequent id on which it is not active, in order."""
    top = int(sae.stats["top_token"][latent])
    tokens, _ = sae.firings(latent)
    return (
        np.setdiff1d(np.flatnonzero(sae.index.corpus.token_ids == top), tokens) if top >= 0 else np.zeros(0, np.int64)
    )


def distinct(sae: IndexedSAE, tokens: NDArray, count: int) -> tuple[list[int], list[int]]:
    """The first tokens of different rows and different words around them, and how many of `tokens` are like each."""
    corpus = sae.index.corpus
    chosen: dict[bytes, int] = {}
    rows: set[int] = set()
    alike: dict[bytes, int] = {}
    for token in np.asarray(tokens).tolist():
        first, last = corpus.window(token, ALIKE_BEFORE, ALIKE_AFTER)
        key = corpus.token_ids[first:last].tobytes()
        alike[key] = alike.get(key, 0) + 1
        row = token // corpus.per_row
        if key not in chosen and row not in rows and len(chosen) < count:
            chosen[key] = token
            rows.add(row)
    return list(chosen.values()), [alike[key] for key in chosen]


def draw(tokens: NDArray, count: int, *seed: Any) -> list[int]:
    """So many of some tokens, in order, the same for the same seed."""
    if len(tokens) <= count:
        return np.asarray(tokens).tolist()
    digest = hashlib.sha256(repr(seed).encode()).digest()
    places = np.random.default_rng(int.from_bytes(digest[:8], "big")).choice(len(tokens), count, replace=False)
    return np.asarray(tokens)[np.sort(places)].tolist()


def passage(sae: IndexedSAE, latent: int, token: int, before: int, after: int) -> dict[str, Any]:
    """A passage around a token: its pieces, and the latent's activation on each."""
    corpus = sae.index.corpus
    first, last = corpus.window(token, before, after)
    row, position = corpus.place(token)
    values = sae.values(latent, first, last)
    return {
        "token": token,
        "row": row,
        "position": position,
        "document": corpus.document(token),
        "activation": float(values[token - first]),
        "first": first,
        "pieces": [corpus.piece(int(i)) for i in corpus.token_ids[first:last]],
        "values": [round(float(v), 6) for v in values],
        "similar": 1,
    }


def token_table(sae: IndexedSAE, latent: int, count: int = 12) -> list[dict[str, Any]]:
    """The token ids a latent is active on most often: count, share of its firings, and of the id's occurrences."""
    corpus = sae.index.corpus
    tokens, acts = sae.firings(latent)
    ids, which, times = np.unique(corpus.token_ids[tokens], return_inverse=True, return_counts=True)
    order = np.lexsort((ids, -times))[:count]
    largest = np.zeros(len(ids), np.float32)
    np.maximum.at(largest, which, acts)
    found = []
    for i in order.tolist():
        all_of_it = int(corpus.counts[ids[i]])
        found.append(
            {
                "token_id": int(ids[i]),
                "piece": corpus.piece(int(ids[i])),
                "count": int(times[i]),
                "share": float(times[i] / len(tokens)),
                "of_token": float(times[i] / all_of_it),
                "largest": float(largest[i]),
            }
        )
    return found


def pieces_of(sae: IndexedSAE, ids: Sequence[int] | NDArray) -> list[str]:
    """How token ids are shown."""
    return [sae.index.corpus.piece(int(i)) for i in ids]
