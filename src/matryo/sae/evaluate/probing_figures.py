"""Figures of sparse probing, TPP and SCR."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from matryo.spine import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from matryo.sae.evaluate.outcome import Outcome

SHOWN = 6
"""Autoencoders in one figure; the CSV has all."""


def draw_probing(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, str]]:
    """Bars for each task: every autoencoder's latents, the same number of channels, and the whole residual stream."""
    for outcome in outcomes:
        k = min(outcome.constants["k"])
        tasks = [task for task in outcome.extra["model"] if task != "all"]
        series = {sae: [found[t][f"top{k}_accuracy"] for t in tasks] for sae, found in outcome.extra["tasks"].items()}
        series = dict(list(series.items())[:SHOWN])
        model = outcome.extra["model"]
        series[f"{k} channel{'s' if k > 1 else ''}"] = [model[t][f"residual_top{k}_accuracy"] for t in tasks]
        marks = [model[t]["residual_accuracy"] for t in tasks]

        def draw(axes: Axes, series: Any = series, tasks: Any = tasks, marks: Any = marks) -> None:
            width = 0.8 / len(series)
            for at, (name, values) in enumerate(series.items()):
                axes.bar([i - 0.4 + (at + 0.5) * width for i in range(len(tasks))], values, width, label=name)
            axes.plot(range(len(tasks)), marks, "_", markersize=22, color=figures.INK, label="whole residual stream")
            axes.axhline(0.5, color=figures.INK, linewidth=0.6)
            axes.set_xticks(range(len(tasks)), tasks, rotation=25, ha="right")
            axes.set_ylim(0.45, 1.0)

        svg = figures.svg(draw, "", f"test accuracy, k = {k}", legend=True, size=(6.4, 3.6))
        yield (
            svg,
            "Sparse probing by task. Chance is 0.5; the marks bound what the residual stream gives a linear probe.",
        )


def draw_tpp(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, str]]:
    """TPP against the number of ablated latents."""
    return _by_n(outcomes, "TPP", "Targeted probe perturbation against latents ablated; bands are 95 % over seeds.")


def draw_scr(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, str]]:
    """SCR against the number of ablated latents."""
    return _by_n(outcomes, "SCR", "Spurious correlation removal against latents ablated; bands are 95 % over seeds.")


def _by_n(outcomes: Sequence[Outcome], label: str, caption: str) -> Iterator[tuple[str, str]]:
    curves: dict[str, list[tuple[Any, ...]]] = {}
    for outcome in outcomes:
        for row in outcome.tables["by-n"].rows:
            curves.setdefault(row[0], []).append(row[1:5])

    def draw(axes: Axes) -> None:
        for name, rows in list(curves.items())[:SHOWN]:
            n, mean, low, high = zip(*rows, strict=True)
            (line,) = axes.plot(n, mean, marker="o", markersize=3, linewidth=1.4, label=name)
            if None not in low:
                axes.fill_between(n, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set_xscale("log")

    if curves:
        yield figures.svg(draw, "latents ablated", label, legend=len(curves) > 1), caption
