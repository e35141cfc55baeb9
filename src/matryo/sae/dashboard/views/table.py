"""The table of latents: filtered by a small language, sorted, and shown a page at a time."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.sae.dashboard.index.opened import IndexedSAE
from matryo.sae.dashboard.index.statistics import COLUMNS
from matryo.sae.dashboard.views.latent import plain
from matryo.sae.dashboard.views.query import Query
from matryo.spine.errors import unknown

PAGE = 50
_TERM = re.compile(r"([a-z_0-9]+)(<=|>=|=|<|>|:)(.*)")

Labels = Mapping[int, Mapping[str, Any]]
"""By latent: its label and tags, for those that have some."""

BESIDE = {
    "explained": "Share of its decoder row that the newest meta-SAE beside the index explains.",
    "delta_mse": "Change of a smaller SAE's error when it is inserted, by the newest stitching: novel below 0.",
}
"""Columns that only runs beside the index give."""

Beside = Mapping[str, NDArray[Any]]

NO_COLUMNS: Beside = MappingProxyType({})


def table_view(sae: IndexedSAE, query: Query, labels: Labels, beside: Beside = NO_COLUMNS) -> dict[str, Any]:
    """One page of the table."""
    where, sort = query.text("where", longest=1_000), query.text("sort", "-density", longest=120)
    order = sorted_latents(sae, where, sort, labels, beside)
    pages = max(1, -(-len(order) // PAGE))
    page = query.whole("page", 1, 1, max(1, 10**6))
    if page > pages:
        raise ValueError(f"page is {page}; expected 1 to {pages}")
    rows = [table_row(sae, int(i), labels, beside) for i in order[(page - 1) * PAGE : page * PAGE]]
    return {
        "sae": sae.name,
        "n_latents": sae.n_latents,
        "where": where,
        "sort": sort,
        "page": page,
        "pages": pages,
        "count": len(order),
        "beside": [name for name in BESIDE if name in beside],
        "rows": rows,
    }


def table_row(sae: IndexedSAE, latent: int, labels: Labels, beside: Beside = NO_COLUMNS) -> dict[str, Any]:
    """All numbers of one latent, with its label and tags."""
    row = {name: plain(sae.stats[latent][name]) for name in COLUMNS}
    row |= {name: plain(np.asarray(values[latent])) for name, values in beside.items()}
    row["piece"] = sae.index.corpus.piece(row["top_token"]) if row["top_token"] >= 0 else ""
    row |= {"label": "", "tags": []} | dict(labels.get(latent, {}))
    for other in sae.told["matches"]:
        pairs = sae.match(other)
        if pairs is not None:
            row |= {
                "match_sae": other,
                "match": int(pairs["latent"][latent]),
                "match_cosine": float(pairs["cosine"][latent]),
            }
            break
    return row


def sorted_latents(
    sae: IndexedSAE, where: str, sort: str, labels: Labels, beside: Beside = NO_COLUMNS
) -> NDArray[np.int64]:
    """Numbers of the latents that pass the filter, by one column or several (`level,-density`); missing values last."""
    kept = np.flatnonzero(passing(sae, where, labels, beside))
    keys = []
    for name in [word for word in sort.split(",") if word] or ["latent"]:
        values = _sortable(sae, name.removeprefix("-"), labels, beside)[kept]
        keys.append(-values if name.startswith("-") else values)  # nan sorts last either way
    return kept[np.lexsort((kept, *reversed(keys)))]


def _sortable(sae: IndexedSAE, name: str, labels: Labels, beside: Beside) -> NDArray[np.float64]:
    """A column as numbers; labels by alphabet, latents without one as nan."""
    if name != "label":
        return column(sae, name, beside).astype(np.float64)
    texts = {latent: str(told.get("label", "")).casefold() for latent, told in labels.items()}
    places = {text: place for place, text in enumerate(sorted(set(texts.values())))}
    values = np.full(sae.n_latents, np.nan)
    for latent, text in texts.items():
        if text and latent < sae.n_latents:
            values[latent] = places[text]
    return values


def column(sae: IndexedSAE, name: str, beside: Beside = NO_COLUMNS) -> NDArray[Any]:
    """A column of the table."""
    if name in beside:
        return beside[name]
    if name == "match_cosine":
        for other in sae.told["matches"]:
            if (pairs := sae.match(other)) is not None:
                return np.asarray(pairs["cosine"])
        return np.full(sae.n_latents, np.nan)
    if name not in COLUMNS:
        raise unknown("column", name[:40], [*COLUMNS, *beside, "match_cosine", "label"])
    return sae.stats[name]


def passing(sae: IndexedSAE, where: str, labels: Labels, beside: Beside = NO_COLUMNS) -> NDArray[np.bool_]:
    """Which latents pass all terms of a filter.

    Terms are separated by spaces: `density>0.001`, `level=2`, `token:whale` (its most frequent token contains this),
    `label:animal`, `tag:done`, `dead=1`.

    Raises:
        ValueError: a term is none of these.
    """
    keep = np.ones(sae.n_latents, bool)
    try:
        terms = shlex.split(where)
    except ValueError as error:
        raise ValueError(f"filter {where[:60]!r}: {error}; expected closed quotation marks") from None
    for term in terms:
        if not (match := _TERM.fullmatch(term)):
            raise ValueError(f"filter {term[:60]!r}: expected terms such as density>0.001, token:whale or label:animal")
        name, sign, value = match.groups()
        if sign == ":":
            keep &= _containing(sae, name, value.casefold(), labels)
        else:
            keep &= _compare(sae, name, sign, value, beside)
    return keep


def _containing(sae: IndexedSAE, name: str, value: str, labels: Labels) -> NDArray[np.bool_]:
    if name == "token":
        corpus = sae.index.corpus
        ids, where = np.unique(sae.stats["top_token"], return_inverse=True)
        hit = np.array([i >= 0 and value in corpus.piece(int(i)).casefold() for i in ids])
        return hit[where]
    if name not in ("label", "tag"):
        raise unknown("text filter", name, ("token", "label", "tag"))
    keep = np.zeros(sae.n_latents, bool)
    for latent, told in labels.items():
        texts = [told.get("label", "")] if name == "label" else told.get("tags", [])
        keep[latent] = any(value in str(text).casefold() for text in texts)
    return keep


def _compare(sae: IndexedSAE, name: str, sign: str, value: str, beside: Beside) -> NDArray[np.bool_]:
    values = sae.stats["firings"] == 0 if name == "dead" else column(sae, name, beside)
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"filter {name}{sign}{value[:40]}: expected a number after {sign}") from None
    # Compared in the column's own precision, so that a number copied from the table finds its row.
    number = values.dtype.type(number) if values.dtype.kind == "f" else number
    signs = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "=": np.equal}
    return signs[sign](values, number)
