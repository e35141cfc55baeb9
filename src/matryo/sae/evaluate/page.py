"""The evaluation as one HTML page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matryo.sae.evaluate.evaluation import Evaluation
from matryo.sae.evaluate.figures import tradeoffs
from matryo.sae.evaluate.outcome import Number
from matryo.sae.evaluate.suite import Task, found_at
from matryo.spine import report


def write_page(evaluation: Evaluation, path: Path, title: str, made_with: str) -> None:
    """Write the report: scores, curves across autoencoders, each task with its figures, tables and constants."""
    runs = sorted(set(evaluation.runs.values()))
    page = report.Report(title, f"{len(evaluation.runs)} autoencoders of {', '.join(runs)}")
    parts: list[Any] = [report.table(evaluation.headers, evaluation.rows()), report.text(*evaluation.notes())]
    if lines := evaluation.missing():
        parts.append(report.raw("<h3>Missing</h3>"))
        parts.append(report.text(*lines))
    page.section("Scores", *parts)
    curves = [report.figure(svg, caption) for svg, caption in tradeoffs(evaluation)]
    if curves:
        page.section("Trade-offs", *curves)
    for task in evaluation.tasks:
        if found := _task(evaluation, task):
            page.section(task.name, *found)
    page.section("Where the numbers come from", *_provenance(evaluation, made_with))
    page.write(path)


def _task(evaluation: Evaluation, task: Task) -> list[Any]:
    outcomes = evaluation.outcomes(task.name)
    if not outcomes:
        return []
    parts: list[Any] = [report.text(task.line[0].upper() + task.line[1:] + ".")]
    if task.draw:
        parts += [report.figure(svg, caption) for svg, caption in found_at(task.draw)(outcomes)]
    parts.append(_scores(evaluation, task))
    for name, table in evaluation.tables(task.name).items():
        if table.shown and table.rows:
            parts.append(report.table(table.headers, table.rows, f"{name} ({task.name}-{name}.csv)"))
    baselines = {key: value for outcome in outcomes for key, value in outcome.baselines.items()}
    if baselines:
        parts.append(
            report.table(["baseline", "value"], list(baselines.items()), "The model itself, to read scores against.")
        )
    return parts


def _scores(evaluation: Evaluation, task: Task) -> Any:
    """All of a task's scores, with intervals; autoencoders are columns when there are few, rows otherwise."""
    outcomes = evaluation.outcomes(task.name)
    keys = list(dict.fromkeys(key for o in outcomes for scores in o.scores.values() for key in scores))
    saes = [sae for o in outcomes for sae in o.scores]
    lines = {key: line for key, _, line in task.columns} | dict(task.lines)

    def cell(sae: str, key: str) -> Any:
        value = evaluation.score(sae, task.name, key)
        found = [o.intervals[sae][key] for o in outcomes if key in o.intervals.get(sae, {})]
        return f"{_short(value)} [{_short(found[0][0])}, {_short(found[0][1])}]" if found else value

    if len(saes) <= 4:
        rows = [[key, *(cell(sae, key) for sae in saes), lines.get(key, "")] for key in keys]
        return report.table(["score", *saes, "what it is"], rows)
    heads = [("SAE", ""), *((key, lines.get(key, "")) for key in keys)]
    return report.table(heads, [[sae, *(cell(sae, key) for key in keys)] for sae in saes])


def _short(value: Number) -> str:
    return "–" if value is None else f"{value:.4g}"


def _provenance(evaluation: Evaluation, made_with: str) -> list[Any]:
    parts: list[Any] = [
        report.text(f"Made with: {made_with}", "Everything is in scores.json; tables are in the .csv files.")
    ]
    for one in evaluation.measured:
        if one.outcome is None:
            continue
        told = {"constants": one.outcome.constants, "data": one.outcome.data, "seeds": one.outcome.seeds}
        lines = report.raw("<pre>{}</pre>").format(json.dumps(told, indent=1, ensure_ascii=False, default=str))
        head = f"{one.task} of {', '.join(one.saes)}, {one.seconds:.1f} s"
        block = report.raw("<details><summary>") + head + report.raw("</summary>") + lines + report.raw("</details>")
        parts.append(block)
    return parts
