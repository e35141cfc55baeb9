"""Everything that one evaluation found: tables, notes, what is missing, and the files it is written to."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from matryo.sae.evaluate.outcome import Measured, Number, Outcome, Table
from matryo.sae.evaluate.suite import Task
from matryo.spine.config import to_dict, write_text

FORMAT = "matryo-scores-1"


@dataclass(frozen=True)
class Evaluation:
    """The tasks that ran, on which autoencoders, and what they found."""

    tasks: tuple[Task, ...]
    measured: tuple[Measured, ...]
    runs: Mapping[str, str]
    "The training run of every autoencoder."
    configs: Mapping[str, Mapping[str, Any]]
    "Its SAEConfig as plain values."

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Columns of the main table: label and explanation."""
        return [("SAE", "kind, latents, k, levels, seed")] + [
            (label, line) for task in self.tasks for _, label, line in task.columns
        ]

    def rows(self) -> list[list[Any]]:
        """One row of the main table for every autoencoder, under `headers`; None where a task found nothing."""
        keys = [(task.name, key) for task in self.tasks for key, _, _ in task.columns]
        return [[sae, *(self.score(sae, task, key) for task, key in keys)] for sae in self.runs]

    def score(self, sae: str, task: str, key: str) -> Number:
        """One score; None where it is missing."""
        return next((o.scores[sae].get(key) for o in self.outcomes(task) if sae in o.scores), None)

    def outcomes(self, task: str) -> list[Outcome]:
        """What a task found, for every group of autoencoders."""
        return [one.outcome for one in self.measured if one.task == task and one.outcome is not None]

    def notes(self) -> list[str]:
        """What the tasks say of their scores, each line once; first that not all of them compare, where it is so."""
        lines = [line for one in self.measured if one.outcome for line in one.outcome.notes]
        groups = dict.fromkeys(one.saes for one in self.measured)
        if len(groups) > 1:
            told = "; ".join(", ".join(group) for group in groups)
            lines.insert(0, f"Of different models, sites or texts, so compare scores within a group only: {told}.")
        return list(dict.fromkeys(lines))

    def missing(self) -> list[str]:
        """What could not be measured, and why."""
        lines = []
        for one in self.measured:
            if one.failure is not None:
                lines.append(f"{one.task} of {', '.join(one.saes)}: {one.failure}")
            if one.outcome is not None:
                lines += [f"{one.task}, {part}: {reason}" for part, reason in one.outcome.missing.items()]
        return list(dict.fromkeys(lines))

    def tables(self, task: str) -> dict[str, Table]:
        """A task's further tables, those of all groups joined."""
        joined: dict[str, Table] = {}
        for outcome in self.outcomes(task):
            for name, table in outcome.tables.items():
                before = joined.get(name)
                rows = (before.rows if before else ()) + table.rows
                joined[name] = Table(table.headers, rows, table.shown)
        return joined

    # Writing ----------------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> dict[str, str]:
        """Write scores.json, scores.csv and a CSV for every further table; return their names by what they are."""
        write_text(folder / "scores.json", json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n")
        write_text(folder / "scores.csv", _csv(*self._wide()))
        names = {"scores": "scores.json", "table": "scores.csv"}
        for task in self.tasks:
            for name, table in self.tables(task.name).items():
                file = f"{task.name}-{name}.csv"
                write_text(folder / file, _csv([label for label, _ in table.headers], table.rows))
                names[f"{task.name}-{name}"] = file
        return names

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values; what is not a finite number is null."""
        saes = {name: {"run": self.runs[name], "config": to_dict(config)} for name, config in self.configs.items()}
        tasks: dict[str, list[dict[str, Any]]] = {task.name: [] for task in self.tasks}
        for one in self.measured:
            told: dict[str, Any] = {"saes": list(one.saes), "seconds": round(one.seconds, 3), "failure": one.failure}
            if one.outcome is not None:
                told |= {f.name: getattr(one.outcome, f.name) for f in fields(one.outcome)}
            tasks[one.task].append(_plain(told))
        explained = {t.name: {key: line for key, _, line in t.columns} | dict(t.lines) for t in self.tasks}
        return {"format": FORMAT, "saes": saes, "columns": explained, "tasks": tasks, "missing": self.missing()}

    def _wide(self) -> tuple[list[str], list[list[Any]]]:
        """Every score of every task, with its interval where it has one."""
        heads: dict[tuple[str, str, int | None], None] = {}
        for one in self.measured:
            for sae in one.saes if one.outcome else ():
                for key in one.outcome.scores.get(sae, {}) if one.outcome else ():
                    heads[one.task, key, None] = None
                    if one.outcome and key in one.outcome.intervals.get(sae, {}):
                        heads |= {(one.task, key, 0): None, (one.task, key, 1): None}
        names = [f"{t}.{key}{'' if end is None else ('_low', '_high')[end]}" for t, key, end in heads]
        rows = [[sae, run, *(self._cell(sae, *head) for head in heads)] for sae, run in self.runs.items()]
        return ["SAE", "run", *names], rows

    def _cell(self, sae: str, task: str, key: str, end: int | None) -> Any:
        if end is None:
            return self.score(sae, task, key)
        found = [o.intervals[sae][key] for o in self.outcomes(task) if key in o.intervals.get(sae, {})]
        return found[0][end] if found else None


def _csv(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(headers)
    writer.writerows([["" if not _told(cell) else cell for cell in row] for row in rows])
    return out.getvalue()


def _told(cell: Any) -> bool:
    return cell is not None and not (isinstance(cell, float) and not math.isfinite(cell))


def _plain(value: Any) -> Any:
    """Values JSON can hold."""
    if isinstance(value, Table):
        return {"headers": [label for label, _ in value.headers], "rows": _plain(value.rows)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if _told(value) else None


def aligned(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table for a terminal: the first column to the left, numbers to the right with three decimals."""
    shown = [list(headers)] + [[_shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    )


def _shown(cell: Any) -> str:
    if not _told(cell):
        return "n/a"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
