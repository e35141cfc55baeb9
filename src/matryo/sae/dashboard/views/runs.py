"""Run folders beside the index: what they are, how far they are, and their curves."""

from __future__ import annotations

import json
import math
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from matryo.sae.dashboard.views.query import Query
from matryo.spine.errors import unknown

POINTS = 400
"""Points drawn of each curve: of longer ones the smallest and the largest of equal stretches of steps."""

MOST_RUNS = 8
MOST_CHARTS = 8
FIRST = ("fvu", "loss", "l0", "dead")
"""Numbers whose curves come first."""

LOGARITHMIC = ("fvu", "loss")

STILL_S = 60.0
"""An unfinished run that logged so recently is going on, wherever its process is."""

Curve = tuple[list[float], list[float]]


def list_runs(folder: Path | None) -> dict[str, Path]:
    """Run folders by name, the newest first. Names from requests are looked up here, and never joined to a path."""
    if folder is None or not folder.is_dir():
        return {}
    found = [path for path in folder.iterdir() if not path.is_symlink() and (path / "environment.json").is_file()]
    return {path.name: path for path in sorted(found, reverse=True)}


def runs_view(folder: Path | None, query: Query) -> dict[str, Any]:
    """All runs, and the curves of those chosen, between two steps where these are given.

    `stamp` changes when one of the chosen runs logs something; `charts` has one entry for every number logged, each
    with the curves of the `series` that have it.
    """
    found = list_runs(folder)
    chosen = list(dict.fromkeys(name for name in query.text("run", longest=2_000).split(",") if name))
    if len(chosen) > MOST_RUNS:
        raise ValueError(f"there are {len(chosen)} runs; expected at most {MOST_RUNS}")
    for name in chosen:
        if name not in found:
            raise unknown("run", name[:80], found)
    low, high = query.number("from", -math.inf), query.number("to", math.inf)
    if low > high:
        raise ValueError(f"from is {low:g} and to {high:g}; expected steps in this order")
    rows = [_row(path) for path in found.values()]
    if not chosen:
        chosen = [row["name"] for row in rows if row["logged"]][:1]
    series: list[dict[str, str]] = []
    charts: dict[str, list[dict[str, Any]]] = {}
    for name in chosen:
        for key, (x, y) in read_curves(found[name], low, high).items():
            of, _, what = key.rpartition("/")
            one = {"run": name, "of": of, "name": f"{name} {of}".strip() if len(chosen) > 1 else of or name}
            if one not in series:
                series.append(one)
            charts.setdefault(what, []).append({"series": series.index(one), "x": x, "y": y})
    shown = sorted(charts, key=lambda key: (FIRST.index(key) if key in FIRST else len(FIRST), key))[:MOST_CHARTS]
    return {
        "runs": rows,
        "chosen": chosen,
        "series": series,
        "charts": [{"what": key, "log": _is_logarithmic(key, charts[key]), "curves": charts[key]} for key in shown],
        "from": low if math.isfinite(low) else None,
        "to": high if math.isfinite(high) else None,
        "running": any(row["status"] == "running" for row in rows if row["name"] in chosen),
        "stamp": [[row["name"], row["logged"], row["status"]] for row in rows if row["name"] in chosen],
    }


def _is_logarithmic(what: str, curves: list[dict[str, Any]]) -> bool:
    return what in LOGARITHMIC and all(value > 0 for curve in curves for value in curve["y"])


def _row(path: Path) -> dict[str, Any]:
    """One run, finished, running or interrupted; a file that is being written is passed over."""
    row = {"name": path.name, "command": "", "started": "", "status": "unfinished", "elapsed_s": None, "logged": 0}
    try:
        told = json.loads((path / "environment.json").read_text())
        row |= {"command": str(told.get("command", "")), "started": str(told.get("started", ""))}
        metrics = path / "metrics.jsonl"
        changed = metrics.stat() if metrics.exists() else None
        row["logged"] = changed.st_size if changed else 0
        if (path / "run.json").is_file():
            row |= {"status": "finished", "elapsed_s": json.loads((path / "run.json").read_text()).get("elapsed_s")}
        elif _is_held(path / "lock") or (changed and time.time() - changed.st_mtime < STILL_S):
            row["status"] = "running"
    except (OSError, ValueError):
        pass
    return row


def _is_held(lock: Path) -> bool:
    """Whether a process of this machine is writing the run, by the kernel's list of locks.

    Trying the lock instead would hold it for a moment, in which a training that starts or goes on would be refused.
    """
    try:
        number = str(lock.stat().st_ino)
        held = Path("/proc/locks").read_text()
    except OSError:
        return False
    return any("FLOCK" in line and line.split()[5].rpartition(":")[2] == number for line in held.splitlines())


def read_curves(path: Path, low: float = -math.inf, high: float = math.inf) -> dict[str, Curve]:
    """Every logged number by step, those of lines that name an SAE under its name, thinned to POINTS points.

    Between two steps: those within, and the ones on either side, so that lines go on to the edge.
    """
    try:
        told = (path / "metrics.jsonl").stat()
    except OSError:
        return {}
    found = {}
    for key, (x, y) in _read(path, told.st_size, told.st_mtime_ns).items():
        inside = [i for i, step in enumerate(x) if low <= step <= high]
        if inside:
            part = slice(max(0, inside[0] - 1), inside[-1] + 2)
            found[key] = thin(x[part], y[part])
    return {key: curve for key, curve in found.items() if len(curve[0]) > 1}


@lru_cache(maxsize=32)
def _read(path: Path, size: int, changed: int) -> dict[str, Curve]:
    """All of a run's curves; read again only when the file has changed."""
    from matryo.spine.run import read_metrics

    curves: dict[str, Curve] = {}
    for line in read_metrics(path):
        step, of = line.get("step"), line.get("sae")
        for key, value in line.items():
            if key in ("step", "time", "session") or step is None or isinstance(value, bool):
                continue
            if isinstance(value, int | float):
                x, y = curves.setdefault(f"{of}/{key}" if isinstance(of, str) else key, ([], []))
                x.append(float(step))
                y.append(float(value))
    return curves


def thin(x: list[float], y: list[float], most: int = POINTS) -> Curve:
    """At most `most` points: the smallest and largest value of equal stretches, in order, and both ends."""
    if len(x) <= most:
        return x, y
    keep = {0, len(x) - 1}
    parts = (most - 2) // 2
    for i in range(parts):
        part = range(i * len(x) // parts, (i + 1) * len(x) // parts)
        keep |= {min(part, key=y.__getitem__), max(part, key=y.__getitem__)}
    order = sorted(keep)
    return [x[i] for i in order], [y[i] for i in order]
