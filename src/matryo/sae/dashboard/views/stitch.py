"""A stitching run: novel and reconstruction latents, their neighbourhoods, and the path from one SAE to the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from matryo.sae.dashboard.index.opened import Index, IndexedSAE
from matryo.sae.dashboard.views.latent import chip
from matryo.sae.dashboard.views.meta import number
from matryo.sae.dashboard.views.query import Query
from matryo.sae.dashboard.views.runs import thin
from matryo.sae.dashboard.views.units import Columns, Tables, chosen, read_table, stitch_runs
from matryo.spine.errors import unknown

THRESHOLD = 0.7
DRAWN = 3_000
LISTED = 20
MOST_EDGES = 100


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
    run = found[name]
    tables = {key: read_table(path) for key, path in run.files.items()}
    pairs = [f"{a} → {b}" for a, b in zip(tables["pairs"]["small"], tables["pairs"]["large"], strict=True)]
    place = query.whole("pair", 0, 0, max(0, len(pairs) - 1))
    small, large = pairs[place].split(" → ")
    of = {key: chosen(t, (t["small"] == small) & (t["large"] == large)) for key, t in tables.items()}
    threshold = query.number("threshold", THRESHOLD, -1, 1)
    view |= {"pairs": pairs, "place": place, "threshold": threshold, "small": small, "large": large}
    named = {"large": Named(index, run, large), "small": Named(index, run, small)}
    view["pair"] = _scatter(of["latents"], named, threshold)
    side = query.choice("side", ("large", "small"), "large")
    view["near"] = _neighbourhood(of, named, query.whole("latent", -1, -1), side)
    view["path"] = _path(of["steps"], query.whole("step", 0, 0), query.text("order", longest=40))
    return view


class Named:
    """The latents of an SAE that a stitching run calls by a name, as chips where the index has it."""

    def __init__(self, index: Index, run: Tables, name: str) -> None:
        self.name, self.sae = name, run.known(index, name)

    def __call__(self, latent: int) -> dict[str, Any]:
        """One latent."""
        if self.sae is None or not 0 <= latent < self.sae.n_latents:
            return {"sae": self.name, "latent": latent, "piece": "", "known": False}
        return {**chip(self.sae, latent), "known": True}


def _scatter(table: Columns, named: Mapping[str, Named], threshold: float) -> dict[str, Any]:
    mine = chosen(table, table["side"] == "large")
    told = {name: int((mine["status"] == name).sum()) for name in dict.fromkeys(mine["status"].tolist())}
    delta, cosine = mine["delta_mse"], mine["max_cosine"]
    firing = np.isfinite(delta) & (mine["status"] != "silent")
    by_cosine, by_mse = cosine[firing] < threshold, delta[firing] < 0
    order = np.argsort(np.where(firing, delta, np.inf), kind="stable")
    shown = order if len(order) <= DRAWN else order[np.linspace(0, len(order) - 1, DRAWN).astype(int)]
    return {
        "status": told,
        "agree": int((by_cosine == by_mse).sum()),
        "of": int(firing.sum()),
        "linear": float(np.median(np.abs(delta[firing]))) if firing.any() else None,
        "points": [
            [number(cosine[i]), number(delta[i]), str(mine["status"][i]), int(mine["latent"][i])] for i in shown
        ],
        "novel": [_latent(mine, int(i), named) for i in order[:LISTED] if delta[i] < 0],
        "known": [_latent(mine, int(i), named) for i in order[firing[order]][::-1][:LISTED]],
    }


def _latent(table: Columns, i: int, named: Mapping[str, Named]) -> dict[str, Any]:
    return {
        **named["large"](int(table["latent"][i])),
        "status": str(table["status"][i]),
        "delta_mse": number(table["delta_mse"][i]),
        "max_cosine": number(table["max_cosine"][i]),
        "nearest": named["small"](int(table["nearest"][i])),
    }


def _neighbourhood(
    of: Mapping[str, Columns], named: Mapping[str, Named], latent: int, side: str
) -> dict[str, Any] | None:
    """The similar latents on the other side, and theirs on this one: edges, and the latents of either side in order."""
    if latent < 0:
        return None
    edges, latents, other = of["edges"], of["latents"], "small" if side == "large" else "large"
    first = edges[f"{other}_latent"][edges[f"{side}_latent"] == latent]
    keys = ("large_latent", "small_latent", "cosine", "swap_step")
    rows = list(zip(*(edges[key][np.isin(edges[f"{other}_latent"], first)].tolist() for key in keys), strict=True))
    rows.sort(key=lambda row: -row[2])
    rows = rows[:MOST_EDGES]
    status = dict(
        zip(*(latents[key][latents["side"] == "large"].tolist() for key in ("latent", "status")), strict=True)
    )
    sides = {name: list(dict.fromkeys(row[at] for row in rows)) for at, name in enumerate(("large", "small"))}
    sides[side] = sides[side] or [latent]
    return {
        "side": side,
        **named[side](latent),
        "status": status.get(latent, "") if side == "large" else "",
        "edges": [
            {
                "large": named["large"](a),
                "small": named["small"](b),
                "cosine": number(cosine),
                "step": int(step) if np.isfinite(step) and step >= 0 else None,
            }
            for a, b, cosine, step in rows
        ],
        "larges": [{**named["large"](a), "status": status.get(a, "")} for a in sides["large"]],
        "smalls": [named["small"](b) for b in sides["small"]],
    }


def stitched_view(sae: IndexedSAE, latent: int, folder: Path | None) -> dict[str, Any]:
    """What stitching runs say of one latent, in every pair that its SAE is the larger or the smaller of."""
    rows: list[dict[str, Any]] = []
    for name, run in stitch_runs(folder, sae.index).items():
        tables = {key: read_table(run.files[key]) for key in ("latents", "pairs")}
        for place, (small, large) in enumerate(zip(tables["pairs"]["small"], tables["pairs"]["large"], strict=True)):
            named = {"small": Named(sae.index, run, small), "large": Named(sae.index, run, large)}
            table = tables["latents"]
            for side, other in (("large", "small"), ("small", "large")):
                if named[side].sae is not sae or len(rows) >= LISTED:
                    continue
                mine = (table["small"] == small) & (table["large"] == large) & (table["side"] == side)
                for i in np.flatnonzero(mine & (table["latent"] == latent))[:1]:
                    rows.append(
                        {
                            "run": name,
                            "pair": place,
                            "side": side,
                            "other": named[other].name,
                            "status": str(table["status"][i]),
                            "delta_mse": number(table["delta_mse"][i]),
                            "max_cosine": number(table["max_cosine"][i]),
                            "nearest": named[other](int(table["nearest"][i])),
                        }
                    )
    return {"sae": sae.name, "latent": sae.check(latent), "rows": rows}


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
    curves = {name: thin(mine["step"].astype(float).tolist(), mine[name].tolist()) for name in ("fvu", "l0")}
    return {
        "orders": orders,
        "order": order,
        "steps": len(mine["step"]) - 1,
        "step": step,
        "here": here,
        "curves": curves,
    }
