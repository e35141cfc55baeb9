"""The report of a meta-SAE run: one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matryo.sae.compare.labels import Label
from matryo.sae.compare.meta import FamilyStudy, MetaStudy, PairedGap
from matryo.sae.compare.meta_graph import META_SHOWN, draw_graph, graph_around
from matryo.sae.compare.naming import short_names
from matryo.spine import figures, report

EXTREMES = 12
"""Latents in each half of the table of the most and the least decomposable."""


@dataclass(frozen=True)
class MetaView:
    """What a page shows of one SAE's meta-SAE."""

    name: str
    study: MetaStudy
    latent: int
    "The latent whose graph is drawn."
    most: tuple[int, ...]
    "The most decomposable latents, and the least."
    least: tuple[int, ...]
    labels: dict[int, Label] = field(default_factory=dict)
    effects: tuple[tuple[Any, ...], ...] = ()
    "Rows under EFFECT_HEADERS."


SCORE_HEADERS = (
    ("SAE", "kind, latents, k, levels, seed"),
    ("latents", "decoder rows: the meta-SAE's data"),
    ("meta-latents", "latents of the meta-SAE"),
    ("explained %", "decoder variance: 100 · (1 − Σ‖w − ŵ‖² / Σ‖w − w̄‖²) over all unit decoder rows"),
    ("L0", "mean active meta-latents per latent"),
    ("dead %", "meta-latents that no latent has"),
    ("at most one %", "latents with no or one meta-latent"),
    ("random rows %", "variance explained by as many random directions, encoder refitted"),
    ("smaller rows %", "by the meta-latents' nearest latents of the smaller SAEs, encoder refitted"),
)

EFFECT_HEADERS = (
    ("edit", "of the latent's direction, wherever it is active"),
    ("tokens", "on which it is active, in its strongest rows"),
    ("KL", "mean KL(clean ‖ edited) of the next token, nats"),
    ("raised", "tokens whose log probability rises most"),
    ("lowered", "tokens whose log probability falls most"),
)


def score_rows(views: Sequence[MetaView]) -> list[list[Any]]:
    """One row for each SAE, under SCORE_HEADERS."""
    rows = []
    for view in views:
        scores = view.study.scores
        shares = [100 * scores.variance_explained, scores.l0, 100 * scores.dead, 100 * scores.at_most_one]
        base = [scores.baselines.get(name) for name in ("random", "smaller")]
        rows.append(
            [view.name, scores.n_latents, scores.n_meta, *shares, *(None if x is None else 100 * x for x in base)]
        )
    return rows


def write_page(
    page: Path,
    title: str,
    views: Sequence[MetaView],
    gaps: Mapping[str, PairedGap],
    families: Mapping[str, FamilyStudy],
) -> None:
    """Write the whole report."""
    out = report.Report("Meta-SAEs", title)
    out.section(
        "Decoder variance explained",
        report.table(SCORE_HEADERS, score_rows(views)),
        *_explained_bars(views),
        report.text("Weights only: a latent's decoder row is one sample. Nothing here depends on text."),
    )
    for name, gap in gaps.items():
        out.section(f"Plain against Matryoshka, {name}", *_gap(gap))
    if any(view.study.scores.smaller for view in views):
        out.section("Beside smaller SAEs", *_smaller(views))
    for name, family in families.items():
        out.section(f"Family {name}", *_family(family))
    for view in views:
        out.section(view.name, *_view(view))
    out.write(page)


def _explained_bars(views: Sequence[MetaView]) -> list[Any]:
    """The first table drawn: what each meta-SAE explains, beside its baselines; nothing for one bar."""
    shown = {"meta-SAE": [view.study.scores.variance_explained for view in views]}
    for name, told in (("smaller", "smaller SAEs' rows"), ("random", "random rows")):
        values = [view.study.scores.baselines.get(name, 0.0) for view in views]
        if any(values):
            shown[told] = values
    if len(views) * len(shown) == 1:
        return []

    def draw(axes: Any) -> None:
        width = 0.8 / len(shown)
        for at, (name, values) in enumerate(shown.items()):
            places = [i + (at - (len(shown) - 1) / 2) * width for i in range(len(views))]
            axes.bar(places, [100 * value for value in values], width=width, label=name)
        axes.set_xticks(range(len(views)), short_names([view.name for view in views]), fontsize=8)

    caption = "Decoder variance explained by each meta-SAE, and by other dictionaries of its size in its place."
    return [report.figure(figures.svg(draw, "", "explained %", legend=len(shown) > 1), caption)]


def _gap(gap: PairedGap) -> list[Any]:
    rows = [
        [i + 1, 100 * a, 100 * b, 100 * (a - b)] for i, (a, b) in enumerate(zip(gap.plain, gap.nested, strict=True))
    ]
    pairs = f"{gap.pairs} pair{'s' if gap.pairs > 1 else ''}"
    told = f"Mean difference {100 * gap.gap:.2f} points over {pairs}"
    if gap.sd is not None and gap.standard_error is not None:
        told += f", standard deviation {100 * gap.sd:.2f}, standard error {100 * gap.standard_error:.2f}"
    return [
        report.table(("pair", "plain %", "Matryoshka %", "difference, points"), rows),
        report.text(
            f"{told}; the plain SAE has more in {gap.positive} of them. The SAEs of a pair differ in levels only. "
            "On Gemma-2-2B, 36,864 latents, the paper has 55 % for BatchTopK and 42 % for Matryoshka."
        ),
    ]


def _smaller(views: Sequence[MetaView]) -> list[Any]:
    heads = (
        "SAE", ("smaller SAE", "of the same site"),
        ("matched %", "meta-latents that have a latent there with a cosine above 0.7"),
        ("own matched %", "the same in the SAE itself"),
        ("mean cosine", "of the nearest latent there"),
        ("edges", "pairs of latents that share a meta-latent"),
        ("overlap %", "of these, pairs that share a neighbour in the smaller SAE, at equal edge count"),
        ("by chance %", "overlap of as many edges placed at random"),
        ("threshold", "cosine at which the edge counts are equal"),
    )  # fmt: skip
    rows: list[list[Any]] = []
    for view in views:
        scores = view.study.scores
        for name, one in scores.smaller.items():
            edges = [None] * 4
            if (o := one.overlap) is not None:
                edges = [o.edges, 100 * o.overlap, 100 * o.chance, o.threshold]
            rows.append([view.name, name, 100 * one.matched, 100 * scores.own_matched, one.mean_cosine, *edges])
    return [report.table(heads, rows)]


def _family(family: FamilyStudy) -> list[Any]:
    sizes = [
        [name, d.n_latents, 100 * d.variance_explained, float(d.counts.double().mean())]
        for name, d in family.decompositions.items()
    ]
    pairs = dict.fromkeys((split.smaller, split.larger) for split in family.splits)
    rows = []
    for small, large in pairs:
        here = [s for s in family.splits if (s.smaller, s.larger) == (small, large)]
        kept = [s.kept for s in here if s.meta]
        means = [sum(getattr(s, name) for s in here) / len(here) for name in ("meta", "child_meta", "added")]
        children = sum(len(s.children) for s in here) / len(here)
        rows.append([small, large, len(here), children, *means, sum(kept) / len(kept) if kept else None])
    heads = (
        "smaller", "larger", ("splits", "latents with two or more of cosine above 0.7 in the larger SAE"),
        ("children", "of such a latent, in the mean"), ("meta-latents", "of such a latent"),
        ("of a child", "meta-latents, in the mean"), ("new in a child", "meta-latents that the latent has not"),
        ("kept", "share of the latent's meta-latents that a child has"),
    )  # fmt: skip
    return [
        report.text(
            f"One meta-SAE of {family.meta.config.n_latents:,} meta-latents on all decoder rows together explains "
            f"{100 * family.variance_explained:.1f} % of their variance."
        ),
        report.table(("SAE", "latents", "variance explained %", "meta-latents per latent"), sizes),
        report.table(heads, rows),
    ]


def _view(view: MetaView) -> list[Any]:
    parts, labels = view.study.decomposition, view.labels
    explained = parts.explained[~parts.explained.isnan()]
    words = {latent: label.short for latent, label in labels.items()}
    graph = graph_around(parts, view.latent)
    html: list[Any] = [
        report.figure(
            figures.histogram(explained.clamp(-1, 1).tolist(), "share of a decoder row's variance explained"),
            "Latents by how much of their decoder row the meta-SAE explains.",
        ),
        report.raw(f"<h3>latent {view.latent}</h3>"),
        report.text(_sentence(view)),
        report.figure(
            draw_graph(graph, words),
            "Width: activation. Blue: the meta-latent points along the latent's row; orange: against it. Beside a "
            "latent: its activation of that meta-latent, and the tokens on which the latent is most active.",
        ),
        report.table(
            ("meta-latent", ("activation", "a"), ("share", "a ⟨v, w⟩ of the row's squared norm, with sign"), "cosine",
             ("its latents", "latents that have it")),
            [[f"m{p.meta}", p.activation, p.contribution, p.cosine, int(parts.sizes[p.meta])]
             for p in parts.of_latent(view.latent)],
        ),
    ]  # fmt: skip
    if view.effects:
        html.append(report.raw("<h3>edits in the model</h3>"))
        html.append(report.table(EFFECT_HEADERS, view.effects))
    for heading, latents in (("most decomposable", view.most), ("least decomposable", view.least)):
        html += [report.raw(f"<h3>{heading}</h3>"), _extremes(view, latents)]
    return html


def _sentence(view: MetaView) -> str:
    parts, latent = view.study.decomposition, view.latent
    count = int(parts.counts[latent])
    drawn = f", the {META_SHOWN} with the largest shares drawn" if count > META_SHOWN else ""
    return (
        f"{count} meta-latents{drawn}; of its row's variance {100 * float(parts.explained[latent]):.1f} % "
        f"is explained. Shares of its squared norm: bias {float(parts.bias[latent]):+.3f}, residual "
        f"{float(parts.residual[latent]):+.3f}, meta-latents the rest; together they are 1."
    )


def _extremes(view: MetaView, latents: Sequence[int]) -> Any:
    parts = view.study.decomposition
    heads: list[Any] = [
        "latent", ("explained %", "of its decoder row's variance"), ("residual", "⟨w, r⟩, its share of ‖w‖² = 1"),
        ("meta-latents", "the six with the largest shares, activation in brackets"),
    ]  # fmt: skip
    if view.labels:
        heads += [("most active on", "tokens, the strongest first"), ("promotes", "by its decoder row")]
    rows = []
    for latent in latents:
        made = ", ".join(f"m{p.meta} ({p.activation:.2f})" for p in parts.of_latent(latent)[:6]) or "none"
        row = [str(latent), 100 * float(parts.explained[latent]), float(parts.residual[latent]), made]
        if view.labels:
            label = view.labels.get(latent)
            words = (label.top, label.promoted) if label else (None, None)
            row += [None if pieces is None else " ".join(f"«{piece}»" for piece in pieces) for pieces in words]
        rows.append(row)
    return report.table(heads, rows)
