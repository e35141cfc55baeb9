"""Meta-latents: what a latent's decoder row is made of, and which latents a meta-latent is in."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from matryo.sae.dashboard.index.opened import IndexedSAE
from matryo.sae.dashboard.views.latent import chip
from matryo.sae.dashboard.views.query import Query
from matryo.sae.dashboard.views.units import chosen, meta_runs, read_table
from matryo.spine.errors import unknown

LISTED = 40


def meta_view(sae: IndexedSAE, folder: Path | None, query: Query) -> dict[str, Any]:
    """A latent's meta-latents, a meta-latent's latents, or the list of both, from one meta-SAE run.

    Contribution, explained, bias and residual are the shares that the run's own tables give.
    """
    found = meta_runs(folder, sae)
    name = query.text("run", next(iter(found), ""), longest=200)
    view: dict[str, Any] = {
        "sae": sae.name,
        "runs": list(found),
        "run": name,
        "latent": None,
        "meta": None,
        "list": None,
    }
    if not found:
        return view
    if name not in found:
        raise unknown("meta-SAE run", name[:80], found)
    latents, edges, metas = (read_table(found[name].files[key]) for key in ("latents", "edges", "meta_latents"))
    n_meta = len(metas["meta_latent"])
    latent, meta = query.whole("latent", -1, -1, sae.n_latents - 1), query.whole("meta", -1, -1, max(0, n_meta - 1))
    if latent >= 0:
        view["latent"] = of_latent(sae, latents, edges, latent)
        view["graph"] = _graph(sae, edges, latent)
    if meta >= 0:
        view["meta"] = _of_meta(sae, edges, metas, meta)
    if latent < 0 and meta < 0:
        order = np.argsort(-metas["latents"], kind="stable")[:LISTED]
        view["list"] = {
            "n_meta": n_meta,
            "metas": [_of_meta(sae, edges, metas, int(i), 6) for i in order],
            "most": [_share(sae, latents, int(i)) for i in np.argsort(-latents["explained"], kind="stable")[:15]],
            "least": [_share(sae, latents, int(i)) for i in np.argsort(latents["explained"], kind="stable")[:15]],
        }
    return view


def of_latent(sae: IndexedSAE, latents: Any, edges: Any, latent: int) -> dict[str, Any]:
    """One latent's decomposition, by falling absolute contribution."""
    mine = chosen(edges, edges["latent"] == latent)
    order = np.argsort(-np.abs(mine["contribution"]), kind="stable")
    parts = [
        {
            "meta": int(mine["meta_latent"][i]),
            "contribution": number(mine["contribution"][i]),
            "activation": number(mine["activation"][i]),
            "cosine": number(mine["cosine"][i]),
            "latents": [chip(sae, int(j)) for j in _members(edges, int(mine["meta_latent"][i]), 6) if j != latent][:5],
        }
        for i in order
    ]
    return {**_share(sae, latents, latent), "parts": parts}


def _share(sae: IndexedSAE, latents: Any, latent: int) -> dict[str, Any]:
    shares = {key: number(latents[key][latent]) for key in ("explained", "bias_share", "residual_share")}
    return {**chip(sae, latent), **shares, "n": int(latents["meta_latents"][latent])}


def _members(edges: Any, meta: int, count: int) -> list[int]:
    mine = chosen(edges, edges["meta_latent"] == meta)
    return mine["latent"][np.argsort(-mine["activation"], kind="stable")][:count].tolist()


def _of_meta(sae: IndexedSAE, edges: Any, metas: Any, meta: int, count: int = LISTED) -> dict[str, Any]:
    mine = chosen(edges, edges["meta_latent"] == meta)
    order = np.argsort(-mine["activation"], kind="stable")
    rows = [
        {
            **chip(sae, int(mine["latent"][i])),
            "contribution": number(mine["contribution"][i]),
            "activation": number(mine["activation"][i]),
            "cosine": number(mine["cosine"][i]),
        }
        for i in order[:count]
    ]
    near = []
    for key in metas:
        if key.startswith("nearest_latent"):
            of = key.removeprefix("nearest_latent").strip() or sae.name
            cosine = number(metas["nearest_cosine" + key.removeprefix("nearest_latent")][meta])
            number_of = int(metas[key][meta])
            known = sae.index.saes.get(of)
            near.append(
                {"sae": of, "latent": number_of, "cosine": cosine, "chip": chip(known, number_of) if known else None}
            )
    ids = sae.stats["top_token"][mine["latent"].astype(int)]
    shared, times = np.unique(ids[ids >= 0], return_counts=True)
    top = shared[np.lexsort((shared, -times))][:6]
    tokens = [{"piece": sae.index.corpus.piece(int(i)), "latents": int(times[shared == i][0])} for i in top]
    return {"meta": meta, "n": len(order), "rows": rows, "nearest": near, "tokens": tokens}


def number(value: Any) -> float | None:
    """A float, None for nan."""
    value = float(value)
    return value if math.isfinite(value) else None


def _graph(sae: IndexedSAE, edges: Any, latent: int) -> dict[str, Any]:
    """The two-hop neighbourhood: the latent's meta-latents, and other latents that have them."""
    mine = chosen(edges, edges["latent"] == latent)
    metas = mine["meta_latent"][np.argsort(-np.abs(mine["contribution"]), kind="stable")].tolist()
    links, others = [], []
    for meta in metas:
        for other in _members(edges, int(meta), 9):
            if other != latent:
                others.append(int(other))
                links.append([int(meta), int(other)])
    names = {o: chip(sae, o)["piece"] for o in dict.fromkeys(others)}
    return {"metas": [int(m) for m in metas], "others": list(names), "links": links, "pieces": list(names.values())}
