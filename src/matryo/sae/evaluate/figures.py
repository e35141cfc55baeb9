"""Figures of an evaluation's report, drawn from scores alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from matryo.spine import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from matryo.sae.evaluate.evaluation import Evaluation
    from matryo.sae.evaluate.outcome import Outcome

SHOWN = 12
"""Curves in one figure; more could not be told apart. The CSV has all."""


def tradeoffs(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """FVU, and the cross-entropy that splicing costs, against L0: one point an autoencoder, one line a family.

    A family shares kind, size and levels; its line joins the means over seeds for each k.
    """
    told = {
        "fvu": ("FVU", lambda sae: evaluation.score(sae, "reconstruction", "fvu"), "Fraction of variance unexplained"),
        "ce": (
            "CE spliced − CE clean, nats/token",
            lambda sae: _cost(evaluation, sae),
            "What splicing costs the model",
        ),
        "decoder": (
            "decoder overlap",
            lambda sae: evaluation.score(sae, "reconstruction", "decoder_cosine"),
            "Mean largest cosine of a decoder row with another",
        ),
    }
    for label, value, title in told.values():
        points = {
            sae: (evaluation.score(sae, "reconstruction", "l0"), value(sae))
            for sae in evaluation.runs
            if evaluation.score(sae, "reconstruction", "l0") is not None and value(sae) is not None
        }
        if len(points) > 1:
            svg = figures.svg(lambda axes, points=points: _families(axes, evaluation, points), "L0", label, legend=True)
            yield svg, f"{title}, against mean active latents per held-out token. Lower left is better."


def _cost(evaluation: Evaluation, sae: str) -> float | None:
    spliced, clean = (evaluation.score(sae, "downstream", key) for key in ("ce_spliced", "ce_clean"))
    return None if spliced is None or clean is None else spliced - clean


def _families(axes: Axes, evaluation: Evaluation, points: Mapping[str, tuple[Any, Any]]) -> None:
    families: dict[str, dict[Any, list[tuple[float, float]]]] = {}
    for sae, point in points.items():
        config = evaluation.configs[sae]
        nested = "" if config["levels"] == "none" else " Matryoshka"
        sparsity = config["l1"] if config["kind"] in ("relu", "gated") else config["k"]
        families.setdefault(f"{config['kind']} {config['n_latents']:,}{nested}", {}).setdefault(sparsity, []).append(
            point
        )
    for family, groups in families.items():
        means = sorted(tuple(sum(axis) / len(axis) for axis in zip(*group, strict=True)) for group in groups.values())
        (line,) = axes.plot(*zip(*means, strict=True), linewidth=1.4, label=family)
        every = [point for group in groups.values() for point in group]
        axes.plot(*zip(*every, strict=True), "o", markersize=4, color=line.get_color())


def draw_reconstruction(outcomes: Sequence[Outcome]) -> Iterable[tuple[str, str]]:
    """Distributions of active latents per token and of densities; FVU by level."""
    counts = _joined(outcomes, "l0_counts")
    if counts:
        series = {
            sae: (list(range(_last(values))), [v / sum(values) for v in values[: _last(values)]])
            for sae, values in counts.items()
        }
        yield (
            figures.lines(series, "active latents", "share of tokens"),
            "How many latents held-out tokens have active.",
        )
    density = _joined(outcomes, "density_counts")
    if density:
        edges = outcomes[0].constants["density_edges_log10"]
        middles = [(a + b) / 2 for a, b in pairwise(edges)]
        series = {sae: (middles, values) for sae, values in density.items()}
        label = "log₁₀ share of held-out tokens"
        yield figures.lines(series, label, "latents"), "On how many tokens latents are active; dead ones are left out."
    yield from _by_level(outcomes, "FVU", "FVU of every Matryoshka prefix, read alone.")


def draw_downstream(outcomes: Sequence[Outcome]) -> Iterable[tuple[str, str]]:
    """Cross-entropy by level."""
    return _by_level(outcomes, "CE", "Cross-entropy of the model with every prefix's reconstruction, nats/token.")


def _by_level(outcomes: Sequence[Outcome], label: str, caption: str) -> Iterator[tuple[str, str]]:
    series: dict[str, tuple[list[float], list[float]]] = {}
    for outcome in outcomes:
        if "levels" not in outcome.tables:
            continue
        table = outcome.tables["levels"]
        at = [name for name, _ in table.headers].index(label)
        for row in table.rows:
            x, y = series.setdefault(row[0], ([], []))
            x.append(row[1])
            y.append(row[at])
    series = {sae: values for sae, values in list(series.items())[:SHOWN] if len(values[0]) > 1}
    if series:
        yield figures.lines(series, "latents of the prefix", label), caption


def _joined(outcomes: Sequence[Outcome], key: str) -> dict[str, list[int]]:
    found = {sae: values for outcome in outcomes for sae, values in outcome.extra.get(key, {}).items()}
    return dict(list(found.items())[:SHOWN])


def _last(values: Sequence[int]) -> int:
    """Where a distribution's last thousandth begins, so that a long tail does not fill the figure."""
    total, so_far = sum(values), 0
    for index, value in enumerate(values):
        so_far += value
        if so_far >= 0.999 * total:
            return index + 1
    return len(values)
