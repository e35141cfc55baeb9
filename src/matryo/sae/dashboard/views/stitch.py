"""A stitching run: novel and reconstruction latents, their neighbourhoods, and the path from one SAE to the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from matryo.sae.dashboard.index.opened import Index
from matryo.sae.dashboard.views.latent import chip
from matryo.sae.dashboard.views.meta import number
from matryo.sae.dashboard.views.query import Query
from matryo.sae.dashboard.views.units import Columns, chosen, read_table, stitch_runs
from matryo.spine.errors import unknown

THRESHOLD = 0.7
DRAWN = 3_000
LISTED = 20


def stitch_view(index: Index, folder: Path | None, query: Query) -> dict[str, Any]:
    """The scatter of one pair, what the threshold says beside ΔMSE, one neighbourhood, and one step of the path.

    With ΔMSE the change of the smaller SAE's error when one latent is inserted, a latent of the larger is novel where
    ΔMSE < 0; the cosine says so where its largest cosine is below the threshold.
    """
    found = stitch_runs(folder, index)
    name = query.text("run", next(iter(found), ""), longest=200)
    view: dict[str, Any] = {"runs": list(found), "run": name, "pair": None}
    if not found:
        return view
    if name not in found:
        raise unknown("stitching run", name[:80], found)
    tables = {key: read_table(path) for key, path in found[name].items()}
    pairs = [f"{a} → {b}" for a, b in zip(tables["pairs"]["small"], tables["pairs"]["large"], strict=True)]
    place = query.whole("pair", 0, 0, max(0, len(pairs) - 1))
    small, large = pairs[place].split(" → ")
    of = {key: chosen(t, (t["small"] == small) & (t["large"] == large)) for key, t in tables.items()}
    threshold = query.number("threshold", THRESHOLD, -1, 1)
    view |= {"pairs": pairs, "place": place, "threshold": threshold, "small": small, "large": large}
    view["pair"] = _scatter(index, of["latents"], large, small, threshold)
    side = query.choice("side", ("large", "small"), "large")
    view["near"] = _neighbourhood(index, of["edges"], query.whole("latent", -1, -1), side, small, large)
    view["path"] = _path(of["steps"], query.whole("step", 0, 0), query.text("order", longest=40))
    return view


def _scatter(index: Index, table: Columns, large: str, small: str, threshold: float) -> dict[str, Any]:
    mine = chosen(table, table["side"] == "large")
    told = {name: int((mine["status"] == name).sum()) for name in dict.fromkeys(mine["status"].tolist())}
    delta, cosine = mine["delta_mse"], mine["max_cosine"]
    firing = np.isfinite(delta)
    by_cosine, by_mse = cosine[firing] < threshold, delta[firing] < 0
    order = np.argsort(np.where(firing, delta, np.inf), kind="stable")
    shown = order if len(order) <= DRAWN else order[np.linspace(0, len(order) - 1, DRAWN).astype(int)]
    return {
        "status": told,
        "agree": int((by_cosine == by_mse).sum()),
        "of": int(firing.sum()),
        "points": [
            [number(cosine[i]), number(delta[i]), str(mine["status"][i]), int(mine["latent"][i])] for i in shown
        ],
        "novel": [_latent(index, mine, int(i), large, small) for i in order[:LISTED] if delta[i] < 0],
        "known": [_latent(index, mine, int(i), large, small) for i in order[firing[order]][::-1][:LISTED]],
    }


def _named(index: Index, sae: str, latent: int) -> dict[str, Any]:
    known = index.saes.get(sae)
    if known is None or latent >= known.n_latents:
        return {"sae": sae, "latent": latent, "piece": "", "known": False}
    return {**chip(known, latent), "known": True}


def _latent(index: Index, table: Columns, i: int, large: str, small: str) -> dict[str, Any]:
    return {
        **_named(index, large, int(table["latent"][i])),
        "status": str(table["status"][i]),
        "delta_mse": number(table["delta_mse"][i]),
        "max_cosine": number(table["max_cosine"][i]),
        "nearest": _named(index, small, int(table["nearest"][i])),
    }


def _neighbourhood(
    index: Index, edges: Columns, latent: int, side: str, small: str, large: str
) -> dict[str, Any] | None:
    """The similar latents on the other side, and theirs on this one."""
    if latent < 0:
        return None
    other = "small" if side == "large" else "large"
    names = {"small": small, "large": large}
    first = edges[f"{other}_latent"][edges[f"{side}_latent"] == latent]
    inside = np.isin(edges[f"{other}_latent"], first)
    rows = [
        {
            "large": _named(index, large, int(a)),
            "small": _named(index, small, int(b)),
            "cosine": number(c),
            "step": int(s) if np.isfinite(s) and s >= 0 else None,
        }
        for a, b, c, s in zip(
            *(edges[k][inside] for k in ("large_latent", "small_latent", "cosine", "swap_step")), strict=True
        )
    ]
    rows.sort(key=lambda row: -(row["cosine"] or 0))
    return {"side": side, **_named(index, names[side], latent), "edges": rows[:100]}


def _path(steps: Columns, step: int, order: str) -> dict[str, Any] | None:
    orders = list(dict.fromkeys(steps["order"].tolist()))
    if not orders:
        return None
    order = order or orders[0]
    if order not in orders:
        raise unknown("order", order, orders)
    mine = chosen(steps, steps["order"] == order)
    step = min(step, len(mine["step"]) - 1)
    here = {
        name: (int if values.dtype.kind == "i" else number if values.dtype.kind == "f" else str)(values[step])
        for name, values in mine.items()
    }
    curves = {name: [mine["step"].astype(float).tolist(), mine[name].tolist()] for name in ("fvu", "l0")}
    return {
        "orders": orders,
        "order": order,
        "steps": len(mine["step"]) - 1,
        "step": step,
        "here": here,
        "curves": curves,
    }
