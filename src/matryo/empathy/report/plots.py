"""The room's figures, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from matryo.empathy.evaluate import Group, cumulative_incidence
from matryo.spine.figures import COLOURS, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_groups(groups: Sequence[Group], metric: str, ylabel: str) -> str:
    """One column for each group: every seed a dot, the interquartile mean a bar with its 95 % interval."""

    def draw(axes: Axes) -> None:
        for i, group in enumerate(groups):
            colour, seeds = COLOURS[i % len(COLOURS)], np.array(group.per_seed[metric])
            spread = (np.arange(len(seeds)) - (len(seeds) - 1) / 2) * 0.03
            axes.plot(i + spread, seeds, "o", color=colour, markersize=4, alpha=0.55, markeredgewidth=0)
            middle = group.iqm[metric]
            axes.plot([i - 0.28, i + 0.28], [middle.value] * 2, color=colour, linewidth=2.2)
            if len(seeds) == 1:
                continue  # one seed has no interval
            axes.plot([i + 0.28] * 2, [middle.low, middle.high], color=colour, linewidth=1.2)
            for end in (middle.low, middle.high):
                axes.plot([i + 0.24, i + 0.32], [end] * 2, color=colour, linewidth=1.2)
        labels = [label(group.name) for group in groups]
        turned = max(map(len, labels)) * len(labels) > 90
        axes.set_xticks(range(len(groups)), labels, rotation=25 if turned else 0, ha="right" if turned else "center")

    return svg(draw, "", ylabel)


def draw_curves(curves: Mapping[str, tuple[Sequence[float], np.ndarray]], ylabel: str, logy: bool = False) -> str:
    """Named curves over steps, (points, seeds) each: the interquartile mean, every seed faintly behind it."""

    def draw(axes: Axes) -> None:
        for i, (name, (steps, values)) in enumerate(curves.items()):
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(steps, values, color=colour, alpha=0.18, linewidth=0.8)
            ordered, cut = np.sort(values, axis=1), values.shape[1] // 4
            middle = ordered[:, cut : values.shape[1] - cut].mean(1)
            lone = "o" if len(steps) == 1 else None  # a line through one point is not seen
            axes.plot(steps, middle, color=colour, linewidth=1.8, marker=lone, label=label(name))

    return svg(draw, "training step", ylabel, logy=logy, legend=len(curves) > 1)


def draw_incidence(events: Mapping[str, Mapping[str, np.ndarray]], horizon: int) -> str:
    """Share of episodes with an event by each step, two events of each group: the first solid, the second dashed."""

    def draw(axes: Axes) -> None:
        for i, (name, lines) in enumerate(events.items()):
            for style, at in zip(("-", "--"), lines.values(), strict=True):
                axes.plot(
                    np.arange(horizon + 1),
                    cumulative_incidence(at, horizon),
                    style,
                    color=COLOURS[i % len(COLOURS)],
                    linewidth=1.5,
                    label=label(name) if style == "-" else None,
                )

    return svg(draw, "step of the episode", "share of episodes", legend=True)


def draw_coins(groups: Sequence[Group]) -> str:
    """Both agents' coins, every seed a dot; the dashed line is where all nine are taken."""

    def draw(axes: Axes) -> None:
        for i, group in enumerate(groups):
            mine, theirs = group.per_seed["coins"], group.per_seed["other_coins"]
            colour: Any = COLOURS[i % len(COLOURS)]
            axes.plot(
                mine, theirs, "o", color=colour, markersize=5, alpha=0.7, markeredgewidth=0, label=label(group.name)
            )
        top = max(
            sum(pair) for g in groups for pair in zip(g.per_seed["coins"], g.per_seed["other_coins"], strict=True)
        )
        axes.plot([0, top], [top, 0], "--", color="#6b7785", linewidth=0.8)
        axes.plot([0, top / 2], [0, top / 2], ":", color="#6b7785", linewidth=0.8)

    return svg(draw, "coins the learner took (mean of a seed)", "coins the other took", legend=True)


def label(group: str) -> str:
    """How figures and tables call a group."""
    name, _, value = group.rpartition("-")
    if not name:
        return group.replace("_", " ")
    signs = {"b": "β", "p": "penalty", "l": "λ"}
    agent = "" if name == "empathic" else name.replace("_", " ") + ", "
    return f"{agent}{signs[value[0]]} = {value[1:]}"
