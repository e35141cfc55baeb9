"""The sections of a drivers run: scores on left-out rows, Shapley values, slopes."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false, reportOperatorIssue=false, reportAssignmentType=false
# (pandas' inline types call its own everyday idioms errors)

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from matryo.phenology.features.config import FEATURES
from matryo.phenology.models.config import BASELINES, MODELS, SCHEMES
from matryo.phenology.report import figures
from matryo.phenology.report.tables import Results
from matryo.spine import report

if TYPE_CHECKING:
    import pandas as pd

TITLES = {"sos": "Start of season", "pos": "Peak of season", "peak": "Maximum NDVI", "eos": "End of season"}
LEFT_OUT = {"year": "years", "plot": "plots", "both": "years and plots"}
NBSP = "\N{NO-BREAK SPACE}"
UNITS = {"sos": "days", "pos": "days", "peak": "NDVI", "eos": "days"}


def explanation_sections(results: Results) -> list[tuple[str, list[Any]]]:
    """Headings and contents: models, then what drives each target, then slopes."""
    targets = list(dict.fromkeys(results.drivers["scores"]["target"]))
    found = [("Models", _models(results, targets))]
    if len(results.drivers["shap"]):
        found.append(("Drivers", [part for target in targets for part in _drivers(results, target)]))
    found.append(("Slopes", [part for target in targets for part in _slopes(results, target)]))
    return found


def _models(results: Results, targets: list[str]) -> list[Any]:
    lines = [
        "Every score is of rows that the model had not seen; settings and cut-off days come from each fold's training "
        "rows alone. R² compares with the mean of the rows predicted. n/a: the split leaves nothing to take it from.",
        "Brackets: 95 % by resampling plots, with these years given. Years are too few to resample: the RMSE's range "
        "over years is a range, not an interval.",
    ]
    parts: list[Any] = [report.text(*lines)]
    for target in targets:
        parts.append(report.raw(f"<h3>{TITLES[target]}</h3>"))
        left = results.left_out.get(target, {})
        if left:
            reasons = ", ".join(f"{count} {reason}" for reason, count in left.items())
            parts.append(report.text(f"Seasons left out of the models: {reasons}."))
        parts.append(_score_table(results.drivers["scores"], target))
        shown = results.drivers["predictions"]
        shown = shown[(shown["target"] == target) & ~shown["model"].isin(list(BASELINES))]
        scheme = shown["scheme"].iloc[-1]
        shown = shown[(shown["scheme"] == scheme) & shown["predicted"].notna()]
        caption = f"Observed over predicted, {SCHEMES[scheme].replace('leave', 'leaving')}."
        parts.append(report.figure(figures.predicted(shown, UNITS[target]), caption))
    parts += [_residual_table(results.drivers["scores"]), _settings(results.drivers["folds"])]
    return parts


def _score_table(scores: "pd.DataFrame", target: str) -> Any:
    heads = (
        ("left out", "what the test rows have in common with no training row"), "model", ("rows", "predicted"),
        ("R²", "1 − Σ(y − ŷ)² / Σ(y − ȳ)²"), (f"RMSE, {UNITS[target]}", ""), (f"MAE, {UNITS[target]}", ""),
        ("RMSE by year", "least and largest, a range"),
    )  # fmt: skip
    rows = []
    for row in scores[scores["target"] == target].to_dict("records"):
        name = LEFT_OUT[row["scheme"]]
        if not row["rows"]:
            rows.append([name, row["model"], *["n/a"] * 5])
            continue
        cells = [_bracket(row, key) for key in ("r2", "rmse", "mae")]
        rows.append(
            [
                name,
                row["model"],
                str(row["rows"]),
                *cells,
                f"{three(row['rmse_year_least'])}–{three(row['rmse_year_largest'])}",
            ]
        )
    return report.table(heads, rows)


def _residual_table(scores: "pd.DataFrame") -> Any:
    """What structure the models leave in the residuals of left-out rows."""
    heads = (
        "target", "left out", "model", ("lag 1", "correlation of a plot's residuals in consecutive years"),
        ("between years", "share of the residuals' variance"), ("between plots", "share of the residuals' variance"),
    )  # fmt: skip
    rows = []
    for row in scores[(scores["rows"] > 0) & ~scores["model"].isin(list(BASELINES))].to_dict("records"):
        cells = [
            None if np.isnan(row[key]) else f"{row[key]:.2f}" for key in ("lag1", "between_years", "between_plots")
        ]
        rows.append([row["target"], LEFT_OUT[row["scheme"]], row["model"], *cells])
    return report.table(
        heads, rows, "Residuals of left-out rows: what is shared by a year or a plot was not explained."
    )


def _bracket(row: dict[str, Any], key: str) -> str:
    value, low, high = (
        f"{row[at]:.2f}" if key == "r2" else three(row[at]) for at in (key, f"{key}_low", f"{key}_high")
    )
    return value if np.isnan(row[f"{key}_low"]) else f"{value} [{low}, {high}]".replace(" ", NBSP)


def three(value: float) -> str:
    """Three significant digits, zeros among them: 3.10 is known as well as 3.13.

    Example:
        >>> three(3.1), three(0.02), three(123.4)
        ('3.10', '0.0200', '123')
    """
    return f"{value:#.3g}".rstrip(".")


def decimals(low: float, high: float, least: int) -> int:
    """Decimals that show two digits of an interval's width, and `least` at least.

    Example:
        >>> decimals(-1.73, -1.33, 2), decimals(-0.00021, 0.00014, 4)
        (2, 5)
    """
    width = high - low
    return max(least, 1 - math.floor(math.log10(width))) if np.isfinite(width) and width > 0 else least


def _settings(folds: "pd.DataFrame") -> Any:
    rows = []
    for (target, scheme), group in folds.groupby(["target", "scheme"], sort=False):
        said = []
        for model, one in group[group["settings"] != ""].groupby("model", sort=False):
            chosen = one["settings"].value_counts()
            said.append(f"{model}: " + ", ".join(f"{name} ({count}×)" for name, count in chosen.items()))
        cutoffs = f"{group['cutoff'].min()}–{group['cutoff'].max()}"
        rows.append(
            [target, LEFT_OUT[str(scheme)], group["fold"].nunique(), cutoffs, "; ".join(said) or "none to choose"]
        )
    heads = ("target", "left out", "folds", ("cut-off", "day before which all windows end"), "settings chosen")
    return report.table(heads, rows, "Cut-offs and settings come from the training rows of each fold.")


def _drivers(results: Results, target: str) -> list[Any]:
    shap, effects = results.drivers["shap"], results.drivers["effects"]
    shap, effects = shap[shap["target"] == target], effects[effects["target"] == target]
    if not len(shap):
        return []
    one, grouped = shap[shap["kind"] == "driver"], shap[shap["kind"] == "group"]
    model, scheme, unit = one["model"].iloc[0], one["scheme"].iloc[0], UNITS[target]
    folds = results.drivers["fold_slopes"]
    gap = folds[folds["target"] == target]["gap"].max() if len(folds) else 0.0
    intro = (
        f"Exact Shapley values of {model} ({MODELS[model]}), {SCHEMES[scheme].replace('leave', 'leaving')}: each row "
        "is explained by a model that had not seen it, against its training rows. They add up to the predictions "
        f"within {gap:.1g} {unit}."
    )
    parts: list[Any] = [report.raw(f"<h3>{TITLES[target]}</h3>"), report.text(intro)]
    parts.append(
        report.figure(
            figures.beeswarm(one, unit), "One point for each left-out season; colour is the driver's own rank."
        )
    )
    parts.append(_importance(one, grouped, unit))
    soil = one[one["driver"] == "soil_t"]
    if len(soil) and len(effects):
        caption = (
            "Soil temperature: Shapley values of left-out seasons, and accumulated local effects of each fold's model."
        )
        parts.append(report.figure(figures.dependence(soil, effects, unit, FEATURES["soil_t"]), caption))
    plot, season = _typical(one)
    row = one[(one["plot"] == plot) & (one["season"] == season)]
    predictions = results.drivers["predictions"]
    here = predictions[
        (predictions["target"] == target)
        & (predictions["plot"] == plot)
        & (predictions["season"] == season)
        & (predictions["model"] == model)
        & (predictions["scheme"] == scheme)
    ]
    label = "day" if unit == "days" else unit
    svg = figures.waterfall(row, f"{TITLES[target]}, {label}", float(here["observed"].iloc[0]))
    caption = f"Plot {plot} in {season}, where soil temperature matters most: from the base value to the prediction."
    parts.append(report.figure(svg, caption))
    return parts


def _typical(one: "pd.DataFrame") -> tuple[Any, Any]:
    """The season with the largest Shapley value of soil temperature, or of any driver."""
    soil = one[one["driver"] == "soil_t"]
    soil = soil if len(soil) else one
    row = soil.loc[soil["shap"].abs().idxmax()]
    return row["plot"], row["season"]


def _importance(one: "pd.DataFrame", grouped: "pd.DataFrame", unit: str) -> Any:
    rows = []
    for kind, table in (("group", grouped), ("driver", one)):
        for driver in dict.fromkeys(table["driver"]):
            here = table[table["driver"] == driver]
            by_fold = here.groupby("fold")["shap"].apply(lambda v: float(v.abs().mean()))
            meaning = FEATURES.get(str(driver), "as one player")
            rows.append(
                [kind, driver, meaning, float(here["shap"].abs().mean()), f"{by_fold.min():.3g}–{by_fold.max():.3g}"]
            )
    heads = (
        "",
        "driver",
        "meaning",
        (f"mean |φ|, {unit}", "over left-out seasons"),
        ("range over folds", "not an interval"),
    )
    return report.table(heads, rows)


def _slopes(results: Results, target: str) -> list[Any]:
    slopes, unit = results.drivers["slopes"], UNITS[target]
    slopes = slopes[slopes["target"] == target]
    least = 4 if target == "peak" else 2
    rows: list[list[Any]] = []
    for row in slopes[slopes["definition"] == ""].to_dict("records"):
        digits = decimals(row["low"], row["high"], least)
        interval = f"{row['low']:.{digits}f} to {row['high']:.{digits}f}" if np.isfinite(row["low"]) else "n/a"
        rows.append(
            [
                row["driver"],
                "linear",
                f"{row['slope']:+.{digits}f}",
                interval,
                "95 % interval",
                f"{row['method']}; {row['note']}",
            ]
        )
    folds = results.drivers["fold_slopes"]
    folds = folds[folds["target"] == target]
    for column, name in (
        ("shap_slope", "Shapley values on soil temperature"),
        ("ale_slope", "accumulated local effects"),
    ):
        known = folds[column].dropna()
        if len(known):
            digits = decimals(known.min(), known.max(), least)
            spread = f"{known.min():.{digits}f} to {known.max():.{digits}f}"
            model = folds["model"].iloc[0]
            rows.append(
                [
                    "soil_t",
                    f"{model}, {name}",
                    f"{known.mean():+.{digits}f}",
                    spread,
                    f"range over {len(known)} folds",
                    "mean of the folds",
                ]
            )
    heads = ("driver", "from", (f"{unit} per unit", "per °C, mm, W/m², °C·d, day"), "from–to", "which is a", "how")
    parts: list[Any] = [report.raw(f"<h3>{TITLES[target]}</h3>"), report.table(heads, rows)]
    other = slopes[slopes["definition"] != ""]
    if len(other) > 1:
        names = [str(name) for name in other["definition"]]
        svg = figures.intervals(
            names, other["slope"].tolist(), other["low"].tolist(), other["high"].tolist(), f"{unit} per °C of soil"
        )
        signs = (
            "the same sign under every definition"
            if len(set(np.sign(other["slope"]))) == 1
            else "a sign that depends on the definition"
        )
        spread = f"from {other['slope'].min():+.2f} to {other['slope'].max():+.2f} {unit} per °C"
        parts.append(report.figure(svg, f"The soil slope under each definition of the date: {spread}, {signs}."))
    return parts
