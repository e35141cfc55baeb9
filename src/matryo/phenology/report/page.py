"""The HTML page, section by section."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false, reportOperatorIssue=false, reportAssignmentType=false
# (pandas' inline types call its own everyday idioms errors)

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matryo.phenology.fit.flags import FLAGS
from matryo.phenology.models.config import BASELINES
from matryo.phenology.report import figures
from matryo.phenology.report.explained import LEFT_OUT, explanation_sections
from matryo.phenology.report.methods import methods, versions
from matryo.phenology.report.tables import Results
from matryo.phenology.season.definitions import DEFINITIONS
from matryo.phenology.series.problems import shortened
from matryo.spine import report

if TYPE_CHECKING:
    import pandas as pd

PANELS = 24
"""Seasons drawn: enough to judge the fits, few enough for one page."""


def write_page(results: Results, path: Path) -> None:
    """Write the report of a fit, and of its drivers where they are known, as one self-contained HTML file."""
    seasons = results.seasons
    plots, years = seasons["plot"].nunique(), seasons["season"].nunique()
    source = "a synthetic site with a known truth" if results.truth is not None else str(results.fit["data"])
    page = report.Report(
        "Seasons and what drives them", f"{plots} plots, {years} years, {len(seasons)} seasons: {source}"
    )
    if results.drivers:
        page.section("In short", *_short(results))
    page.section("Data", *_data(results))
    page.section("Fits", *_fits(results))
    page.section("Flags", *_flags(results))
    page.section("Dates by definition", *_dates(results))
    for heading, parts in explanation_sections(results) if results.drivers else []:
        page.section(heading, *parts)
    page.section("Methods", report.text(*methods(results)))
    page.section("Software", report.table(("package", "version"), versions()))
    page.write(path)


def _short(results: Results) -> list[Any]:
    lines = []
    slopes, scores = results.drivers["slopes"], results.drivers["scores"]
    for row in slopes[(slopes["driver"] == "soil_t") & (slopes["definition"] == "")].itertuples():
        name = {"sos": "Start of season", "pos": "Peak", "eos": "End of season", "peak": "Maximum NDVI"}[
            str(row.target)
        ]
        unit, digits = ("NDVI", 4) if row.target == "peak" else ("days", 2)
        lines.append(
            f"{name}: {row.slope:+.{digits}f} {unit} per °C of soil temperature (95 % interval {row.low:.{digits}f} to "
            f"{row.high:.{digits}f}; {row.method}; {row.note})."
        )
    rows = []
    for (target, scheme), one in scores[scores["rmse"].notna()].groupby(["target", "scheme"], sort=False):
        baseline = one["model"].isin(list(BASELINES))
        if baseline.all() or not baseline.any():
            continue
        best, base = one.loc[one["rmse"][~baseline].idxmin()], one.loc[one["rmse"][baseline].idxmin()]
        said = "yes" if best["rmse"] < base["rmse"] else "no"
        rows.append(
            [
                target,
                LEFT_OUT[str(scheme)],
                best["model"],
                float(best["rmse"]),
                base["model"],
                float(base["rmse"]),
                said,
            ]
        )
    heads = (
        "target", "left out", ("best model", "least RMSE on these rows, so its RMSE is a little too good"), "RMSE",
        ("best baseline", "of those that the split leaves available"), "RMSE", ("better", "than the baseline"),
    )  # fmt: skip
    return [report.text(*lines), report.table(heads, rows, "RMSE in days, of PEAK in NDVI, on left-out rows.")]


def _data(results: Results) -> list[Any]:
    seasons, visits = results.seasons, results.visits
    rows = []
    for season, group in seasons.groupby("season"):
        here = visits[visits["season"] == season]
        rows.append(
            [
                str(season),
                len(group),
                int((here["weight"] > 0).sum()),
                float(group["visits"].median()),
                float(group["first_doy"].min()),
                float(group["last_doy"].max()),
                int((group["flags"] != "").sum()),
            ]
        )
    heads = (
        "season", "plots", ("visits", "with a positive weight"), ("per plot", "median"), ("first", "day of the season"),
        ("last", "day of the season"), "flagged",
    )  # fmt: skip
    parts: list[Any] = [report.table(heads, rows)]
    if len(results.problems):
        lines = [[p.table, p.problem, _cut(p.rows), _cut(p.plots)] for p in results.problems.itertuples()]
        note = "Rows are counted with the header as row 1; problems.csv has all of them."
        parts.append(report.table(("table", "what could not be used", "rows", "plots"), lines, note))
    else:
        parts.append(report.text("Every row of the tables could be used."))
    return parts


def _cut(text: str) -> str:
    """The beginning of a long list, up to a whole item: half a row's number is another row's."""
    return text if len(text) < 80 else f"{text[:76].rpartition(' ')[0] or text[:76]} …"


def choose_panels(seasons: "pd.DataFrame") -> "pd.DataFrame":
    """The seasons to draw: flagged ones up to a third, the others evenly over the range of SOS errors."""
    drawable = seasons[seasons["visits"] > 0]
    flagged = drawable[drawable["flags"] != ""]
    flagged = flagged.iloc[
        np.unique(np.linspace(0, len(flagged) - 1, min(len(flagged), PANELS // 3)).round().astype(int))
    ]
    rest = drawable[drawable["flags"] == ""].sort_values("sos_doy_se")
    many = min(PANELS - len(flagged), len(rest))
    rest = rest.iloc[np.unique(np.linspace(0, len(rest) - 1, many).round().astype(int))] if many else rest.iloc[:0]
    return drawable.loc[sorted([*flagged.index, *rest.index])]


def _fits(results: Results) -> list[Any]:
    shown = choose_panels(results.seasons)
    if not len(shown):
        return [report.text("No season has a visit that could be used.")]
    svg = figures.small_multiples(shown, results.visits, results.fit["curve"], results.fit["window"])
    caption = (
        f"{len(shown)} of {len(results.seasons)} seasons: up to a third flagged ones, the others evenly from the "
        f"smallest to the "
        "largest standard error of SOS. Diamonds: SOS (green), POS (orange), EOS (pink), with 95 % intervals; hollow "
        "points have "
        "no weight. The line is the fitted curve."
    )
    parts: list[Any] = [report.figure(svg, caption)]
    if results.truth is not None:
        both = results.seasons.merge(results.truth, on=["plot", "season"], suffixes=("", "_true"))
        both = both[both["flags"] == ""]
        for column, unit in (("sos_doy", "SOS, day"), ("peak_ndvi", "PEAK, NDVI")):
            known = both[both[column].notna() & both[f"{column}_true"].notna()]
            if not len(known):
                continue
            error = known[column] - known[f"{column}_true"]
            rmse = np.sqrt(np.mean(error**2))
            said = f"Fitted over true {unit}, unflagged seasons: RMSE {rmse:.3g}, bias {error.mean():+.2g}."
            parts.append(report.figure(figures.against_truth(known, column, unit), said))
    return parts


def _flags(results: Results) -> list[Any]:
    flags = results.seasons["flags"].str.split(",")
    rows = []
    for name, (_, meaning) in FLAGS.items():
        here = results.seasons[flags.map(lambda names, name=name: name in names)]
        which = shortened([f"{p} {s}" for p, s in zip(here["plot"], here["season"], strict=True)])
        rows.append([name, len(here), meaning, which])
    clear = int((results.seasons["flags"] == "").sum())
    return [
        report.text(f"{clear} of {len(results.seasons)} seasons have no flag. A flagged season stays in every table."),
        report.table(("flag", "seasons", "meaning", "which"), rows),
    ]


def _dates(results: Results) -> list[Any]:
    good = results.seasons[results.seasons["flags"] == ""]
    rows = []
    for name, meaning in DEFINITIONS.items():
        chosen = " (chosen)" if name == results.fit["definition"] else ""
        cells: list[Any] = [f"{name}{chosen}: {meaning}"]
        for column in (f"sos_{name}_doy", f"eos_{name}_doy", f"los_{name}_days"):
            cells += [float(good[column].median()), float(good[f"{column}_se"].median())]
        rows.append(cells)
    heads = ("definition", "SOS", "SE", "EOS", "SE", "length", "SE")
    note = "Medians over unflagged seasons, days; SE is the median standard error (delta method)."
    sizes = [
        [label, float(good[column].median()), float(good[f"{column}_se"].median())]
        for label, column in (
            ("POS, day", "pos_doy"), ("PEAK, NDVI", "peak_ndvi"), ("amplitude, NDVI", "amplitude_ndvi"),
            ("integral, NDVI·days", "integral_ndvi_days"),
        )
    ]  # fmt: skip
    return [report.table(heads, rows, note), report.table(("metric", "median", "median SE"), sizes)]
