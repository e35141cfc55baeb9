"""What `sae evaluate` measured of an SAE, from the newest such run beside the index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matryo.sae.dashboard.index.opened import IndexedSAE
from matryo.sae.dashboard.views.runs import list_runs

FIRST = {"reconstruction": ("fvu", "l0", "dead", "cosine"), "downstream": ("ce_clean", "ce_spliced", "ce_recovered")}
"""Scores shown first; the others come after them, task by task."""


def measured_view(sae: IndexedSAE, folder: Path | None) -> dict[str, Any] | None:
    """Scores with what they mean, those of prefixes where the SAE has levels; None where nothing was measured."""
    for name, path in list_runs(folder).items():
        try:
            told = json.loads((path / "scores.json").read_text(encoding="utf-8"))
            if told.get("format") == "matryo-scores-1" and (path / "run.json").is_file():
                found = _scores(sae, told)
                if found:
                    return {"run": name, **found}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return None


def _scores(sae: IndexedSAE, told: dict[str, Any]) -> dict[str, Any] | None:
    own, run = Path(sae.told["folder"]).name, sae.told["run"]
    names = (own, sae.name, f"{run}-{own}")  # the last where two runs of the evaluation have one of this name
    key = next((k for k, one in told["saes"].items() if one["run"] == run and k in names), None)
    if key is None:
        return None
    first, rest, levels = [], [], None
    for task, parts in told["tasks"].items():
        for part in parts:
            for name, value in (part["scores"].get(key) or {}).items():
                if isinstance(value, bool) or not isinstance(value, int | float):
                    continue
                meaning = told["columns"].get(task, {}).get(name, "")
                row = {"task": task, "name": name, "value": value, "meaning": meaning}
                (first if name in FIRST.get(task, ()) else rest).append(row)
            table = (part.get("tables") or {}).get("levels")
            if table and any(row[0] == key for row in table["rows"]):
                rows = [row[1:] for row in table["rows"] if row[0] == key]
                levels = {"headers": table["headers"][1:], "rows": rows}
    return {"first": first, "rest": rest, "levels": levels}
