"""Run folders beside the index: what they are, how far they are, and their curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matryo.sae.dashboard.views.query import Query
from matryo.spine.errors import unknown

POINTS = 400
"""Points drawn of each curve: of longer ones the smallest and the largest of equal stretches of steps."""

PRESELECTED = 4


def list_runs(folder: Path | None) -> dict[str, Path]:
    """Run folders by name, the newest first. Names from requests are looked up here, and never joined to a path."""
    if folder is None or not folder.is_dir():
        return {}
    found = [path for path in folder.iterdir() if not path.is_symlink() and (path / "environment.json").is_file()]
    return {path.name: path for path in sorted(found, reverse=True)}


def runs_view(folder: Path | None, query: Query) -> dict[str, Any]:
    """All runs, and the curves of those chosen."""
    found = list_runs(folder)
    chosen = [name for name in query.text("run", longest=2_000).split(",") if name]
    for name in chosen:
        if name not in found:
            raise unknown("run", name[:80], found)
    rows = [_row(path) for path in found.values()]
    if not chosen:
        chosen = [row["name"] for row in rows if row["lines"]][:1]
    curves: dict[str, list[dict[str, Any]]] = {}
    for name in chosen[:PRESELECTED]:
        for key, (x, y) in read_curves(found[name]).items():
            of, _, what = key.rpartition("/")
            curves.setdefault(what, []).append({"name": f"{name[:22]} {of}".strip(), "x": x, "y": y})
    shown = {key: curves[key] for key in sorted(curves, key=lambda k: (k not in ("fvu", "loss", "l0", "dead"), k))[:8]}
    running = any(row["status"] == "running" for row in rows if row["name"] in chosen)
    return {"runs": rows, "chosen": chosen, "curves": shown, "running": running}


def _row(path: Path) -> dict[str, Any]:
    """One run, finished, running or interrupted; a file that is being written is passed over."""
    row = {"name": path.name, "command": "", "started": "", "status": "unfinished", "elapsed_s": None, "lines": 0}
    try:
        told = json.loads((path / "environment.json").read_text())
        row |= {"command": str(told.get("command", "")), "started": str(told.get("started", ""))}
        metrics = path / "metrics.jsonl"
        row["lines"] = metrics.stat().st_size if metrics.exists() else 0
        if (path / "run.json").is_file():
            row |= {"status": "finished", "elapsed_s": json.loads((path / "run.json").read_text()).get("elapsed_s")}
        elif _is_held(path / "lock"):
            row["status"] = "running"
    except (OSError, ValueError):
        pass
    return row


def _is_held(lock: Path) -> bool:
    """Whether a process is writing the run."""
    import fcntl

    if not lock.is_file():
        return False
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
    return False


def read_curves(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Every logged number by step, thinned to POINTS points."""
    from matryo.spine.run import read_metrics

    curves: dict[str, tuple[list[float], list[float]]] = {}
    for line in read_metrics(path):
        step = line.get("step")
        for key, value in line.items():
            if key in ("step", "time", "session") or step is None or isinstance(value, bool):
                continue
            if isinstance(value, int | float):
                x, y = curves.setdefault(key, ([], []))
                x.append(float(step))
                y.append(float(value))
    return {key: thin(x, y) for key, (x, y) in curves.items() if len(x) > 1}


def thin(x: list[float], y: list[float], most: int = POINTS) -> tuple[list[float], list[float]]:
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
