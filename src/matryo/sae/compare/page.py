"""The HTML report of stitched SAEs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path as File
from typing import Any

import numpy as np
import pyarrow as pa

from matryo.sae.compare.config import PAPER_THRESHOLD
from matryo.sae.compare.naming import short_names
from matryo.sae.compare.pairs import STATUSES, Compared, by_sizes
from matryo.spine import figures, report

MOST_POINTS = 600
"""Points drawn of a curve, of thousands of steps."""

HEADERS = (
    ("smaller → larger", "the pair of SAEs"),
    ("latents", "of the smaller → of the larger"),
    ("novel %", "latents of the larger that, added alone, lower the smaller's MSE (ΔMSE < 0), of all of the larger"),
    ("beyond 2 SE %", "novel with ΔMSE more than two standard errors below 0, of all of the larger"),
    (f"cos ≤ {PAPER_THRESHOLD} %", "latents of the larger without a latent of the smaller above that cosine"),
    ("AUC", "how well the largest cosine tells novel latents from the others (1: perfectly, 0.5: not at all)"),
    ("ROC τ", "the cosine that tells best"),
    ("FVU", "of the smaller → of the larger"),
    ("L0", "of the smaller → of the larger"),
    ("MSE, novel in", "change of the smaller's MSE when all novel latents are added"),
)


def write_page(
    file: File,
    title: str,
    subtitle: str,
    compared: Sequence[Compared],
    steps: pa.Table | None,
    scores: Mapping[tuple[str, str], Mapping[str, Any]],
    controls: Sequence[Compared] = (),
    notes: Sequence[str] = (),
    chains: Sequence[Sequence[str]] = (),
) -> None:
    """Write the report.

    Args:
        file: where.
        title: of the page.
        subtitle: what was measured on what.
        compared: pairs of different sizes.
        steps: the table of steps of their paths.
        scores: of each pair, for the table.
        controls: pairs of one size and different seeds.
        notes: what else to say, a paragraph each.
        chains: names of SAEs from the smallest on, for the curves over a whole family.
    """
    names = list(dict.fromkeys(name for one in [*compared, *controls] for name in _pair(one)))
    short = dict(zip(names, short_names(names), strict=True))
    page = report.Report(title, subtitle)
    page.section("Pairs", report.table(HEADERS, [_row(scores[_pair(one)], short) for one in compared]), *notes)
    if len(chains) > 1:
        sizes = [by_sizes(scores[_pair(one)] for one in group) for group in (compared, controls)]
        page.section("By size, over seeds", *(_over_seeds(rows) for rows in sizes if rows), SEEDS)
    if controls:
        rows = [_row(scores[_pair(one)], short) for one in controls]
        page.section("Control: one size, different seeds", report.table(HEADERS, rows), CONTROL)
    page.section("Novel and reconstruction latents", report.figure(_counts([*compared, *controls]), COUNTS))
    if steps is not None:
        table = report.table(*_path_rows(steps, compared, scores, short))
        page.section("Paths", table, *_path_figures(steps, compared, chains, short), PATHS)
    for one in compared:
        page.section(f"{one.small} → {one.large}", report.figure(_scatter(one), _scatter_caption(one)))
    page.write(file)


SEEDS = (
    "Mean over the pairs of the same two sizes, the least and the largest, and in brackets the mean's 95 % interval "
    "over seeds. Of GPT-2's SAEs the authors say that at a doubling a third of the larger's latents are novel."
)
CONTROL = (
    "Both SAEs of such a pair were trained alike on the same batches from other initial weights: what is novel here is "
    "not due to size."
)
COUNTS = (
    "Latents of the larger SAE of each pair. novel: ΔMSE < 0; shared: the very same latent is in the smaller SAE; "
    "silent: not "
    "active on the tokens measured; reconstruction: all others."
)
PATHS = (
    "A path begins at the smaller SAE and ends at the larger one. greedy: all novel latents enter, then connected "
    "components of the similarity graph change places, mixed with what no edge holds, at each step the one that "
    "lowers MSE most for what it changes. published: novel latents by ΔMSE, components by cosine, then what no edge "
    "holds. At last b_dec is replaced. FVU and L0 are exact at each step; cross-entropy is measured at the points "
    "drawn. The error rises on the way where latents that stand for one another are torn apart; SAEs that share few "
    "latents have many of those."
)


def _pair(one: Compared) -> tuple[str, str]:
    return one.small, one.large


def _row(score: Mapping[str, Any], short: Mapping[str, str]) -> list[Any]:
    change = score.get("insertion_mse_change")
    return [
        f"{short[score['small']]} → {short[score['large']]}",
        f"{score['n_small']:,} → {score['n_large']:,}",
        100 * score["novel_share"],
        100 * score["novel_beyond_2_se"] / score["n_large"],
        100 * score["novel_share_by_paper_threshold"],
        score["roc_auc"],
        score["roc_threshold"],
        f"{score['fvu_small']:.4f} → {score['fvu_large']:.4f}",
        f"{score['l0_small']:.1f} → {score['l0_large']:.1f}",
        None if change is None else f"{100 * change:+.1f} %",
    ]


def _over_seeds(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table over pairs of the same sizes."""

    def cell(row: Mapping[str, Any], key: str, factor: float = 1.0) -> str | None:
        if key not in row:
            return None
        mean, least, most = (factor * row[name] for name in (key, f"{key}_least", f"{key}_largest"))
        told = f"{mean:.3g} ({least:.3g} to {most:.3g})"
        if f"{key}_low" in row:
            told += f", [{factor * row[f'{key}_low']:.3g}, {factor * row[f'{key}_high']:.3g}]"
        return told

    heads = (
        "latents",
        "pairs",
        "novel %",
        "of active %",
        f"cos ≤ {PAPER_THRESHOLD} %",
        "AUC",
        "ROC τ",
        "FVU of the larger",
    )
    cells = [
        [
            f"{row['n_small']:,} → {row['n_large']:,}",
            row["pairs"],
            cell(row, "novel_share", 100),
            cell(row, "novel_share_of_active", 100),
            cell(row, "novel_share_by_paper_threshold", 100),
            cell(row, "roc_auc"),
            cell(row, "roc_threshold"),
            cell(row, "fvu_large"),
        ]
        for row in rows
    ]
    return report.table(heads, cells)


def _scatter(one: Compared) -> str:
    found = one.insertion
    cosine = one.there.cosine.double().cpu().numpy()
    change = 100 * found.delta_mse.numpy() / found.mse_small
    seen = change[change != 0]

    def draw(axes: Any) -> None:
        for name in STATUSES:
            mine = one.status == name
            if mine.any():
                # As an image: thousands of points as SVG would be a megabyte each.
                axes.scatter(cosine[mine], change[mine], s=5, alpha=0.5, linewidths=0, label=name, rasterized=True)
        axes.axhline(0, color=figures.INK, linewidth=0.8)
        axes.axvline(one.threshold, color=figures.INK, linewidth=0.8, linestyle="--")
        axes.set_yscale("symlog", linthresh=float(np.median(np.abs(seen))) if len(seen) else 1.0)
        axes.legend(frameon=False, loc="lower left")

    return figures.svg(draw, "largest decoder cosine", "ΔMSE, % of the smaller's MSE", size=(6.4, 3.8))


def _scatter_caption(one: Compared) -> str:
    score = one.scores()
    return (
        f"Every latent of {one.large}: what adding it to {one.small} does to the MSE, over {one.insertion.tokens:,} "
        "tokens, beside "
        f"its largest decoder cosine with a latent of {one.small}. Linear between ± the median of |ΔMSE|, logarithmic "
        "beyond. "
        f"Dashed: the threshold {one.threshold:.3f}, which says the same as ΔMSE for {100 * score['agreement']:.1f} % "
        "of the "
        f"latents tested; {PAPER_THRESHOLD} does for {100 * score['agreement_at_paper_threshold']:.1f} %, the ROC's "
        "own, "
        f"{score['roc_threshold']:.3f}, for {100 * score['agreement_at_roc_threshold']:.1f} % (AUC "
        f"{score['roc_auc']:.3f})."
    )


def _counts(compared: Sequence[Compared]) -> str:
    names = [f"{len(one.back.latent):,} → {len(one.status):,}" for one in compared]

    def draw(axes: Any) -> None:
        bottom = np.zeros(len(names))
        for status in STATUSES:
            count = np.array([(one.status == status).sum() for one in compared])
            axes.bar(np.arange(len(names)), count, bottom=bottom, width=0.65, label=status)
            bottom += count
        axes.set_xticks(np.arange(len(names)), names, rotation=0 if len(names) <= 4 else 60, ha="center", fontsize=8)
        axes.legend(frameon=False, ncols=len(STATUSES), loc="lower center", bbox_to_anchor=(0.5, 1.0))  # not on bars

    return figures.svg(draw, "", "latents of the larger SAE", size=(6.4, 3.4))


def _path_rows(
    steps: pa.Table,
    compared: Sequence[Compared],
    scores: Mapping[tuple[str, str], Mapping[str, Any]],
    short: Mapping[str, str],
) -> tuple[list[Any], list[list[Any]]]:
    """Where each path starts, stands and ends: header and rows."""
    orders = list(dict.fromkeys(steps["order"].to_pylist()))
    heads = ["smaller → larger", "order", "FVU of the smaller", ("novel in", "FVU with all novel latents added")]
    heads += [("highest", "largest FVU on the way"), "FVU of the larger", ("steps up %", "steps that raise MSE")]
    rows = []
    for one in compared:
        score = scores[_pair(one)]
        for order in orders:
            stands = [score.get(key) for key in ("fvu_small", "fvu_inserted", f"{order}_fvu_highest", "fvu_large")]
            up = score.get(f"{order}_steps_up")
            shown = [None if value is None else f"{value:.4f}" for value in stands]
            rows.append([f"{short[one.small]} → {short[one.large]}", order, *shown, None if up is None else 100 * up])
    return heads, rows


def _path_figures(
    steps: pa.Table, compared: Sequence[Compared], chains: Sequence[Sequence[str]], short: Mapping[str, str]
) -> list[Any]:
    columns = {name: np.array(steps[name].to_pylist(), dtype=object) for name in steps.column_names}
    columns["way"] = _way(columns)
    pairs = [_pair(one) for one in compared]
    drawn = []
    for chain in chains or [list(pair) for pair in pairs]:
        links = [pair for pair in pairwise(chain) if pair in pairs]
        name = " → ".join(short[one] for one in chain)
        figures_of = {
            "way": ("latents that have changed places, one doubling after the other", "FVU along the way"),
            "l0": ("L0, active latents per token", "FVU by L0"),
            "ce_spliced": ("cross-entropy, nats/token", "FVU by cross-entropy, at the steps where it was measured"),
        }
        for key, (label, caption) in figures_of.items():
            if curves := _against(columns, links, key, label):
                drawn.append(report.figure(curves, f"{name}: {caption}."))
    return drawn


def _way(columns: dict[str, np.ndarray]) -> np.ndarray:
    """How far each step of a chain is: 1.5 is half of the latents on from the chain's second SAE to its third."""
    way = np.zeros(len(columns["step"]))
    keys = list(zip(columns["small"], columns["large"], columns["order"], strict=True))
    for small, large, order in dict.fromkeys(keys):
        mine = np.array([key == (small, large, order) for key in keys])
        done = (columns["added"][mine] + columns["removed"][mine]).astype(float).cumsum()
        way[mine] = done / max(done[-1], 1.0)
    return way.astype(object)


def _against(columns: dict[str, np.ndarray], links: Sequence[tuple[str, str]], key: str, label: str) -> str:
    """FVU by another column along the links of a chain, a curve for each order; nothing without measured values."""
    series, ends = {}, []
    for order in dict.fromkeys(columns["order"].tolist()):
        x, y = [], []
        for number, (small, large) in enumerate(links):
            mine = (columns["small"] == small) & (columns["large"] == large) & (columns["order"] == order)
            at = np.flatnonzero(mine & np.array([value is not None for value in columns[key]]))
            if not len(at):
                continue
            shown = at[np.unique(np.linspace(0, len(at) - 1, MOST_POINTS).round().astype(int))]
            before = number if key == "way" else 0
            x += (before + columns[key][shown].astype(float)).tolist()
            y += columns["fvu"][shown].astype(float).tolist()
            ends += [(before + float(columns[key][s]), float(columns["fvu"][s])) for s in (at[0], at[-1])]
        if x:
            series[order] = x, y
    if not series:
        return ""

    def draw(axes: Any) -> None:
        for order, (x, y) in series.items():
            axes.plot(x, y, label=order, linewidth=1.2, marker="." if len(x) < 100 else None)
        axes.plot(*zip(*ends, strict=True), "o", label="the SAEs themselves", color=figures.INK, markersize=5)
        axes.legend(frameon=False, loc="upper right")  # the best place takes seconds to find among thousands of points

    return figures.svg(draw, label, "FVU")
