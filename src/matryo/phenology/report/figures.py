"""The report's figures, drawn on the spine's SVGs."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false, reportOperatorIssue=false, reportAssignmentType=false
# (pandas' inline types call its own everyday idioms errors)

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from matryo.phenology.curves import curve, evaluate
from matryo.spine.figures import COLOURS, INK, svg

if TYPE_CHECKING:
    import pandas as pd

DATES = (("sos_doy", COLOURS[2], "SOS"), ("pos_doy", COLOURS[1], "POS"), ("eos_doy", COLOURS[3], "EOS"))


def small_multiples(seasons: "pd.DataFrame", visits: "pd.DataFrame", form_name: str, window: Sequence[float]) -> str:
    """Draw one panel for each season: visits (hollow without weight), the curve, dates with 95 % intervals."""
    from scipy import stats

    form, columns = curve(form_name), 4
    rows = max(1, -(-len(seasons) // columns))
    shown = visits.merge(seasons[["plot", "season"]], on=["plot", "season"])
    low, high = np.nanmin(shown["ndvi"]), np.nanmax(shown["ndvi"])
    days = np.linspace(max(window[0], shown["doy"].min() - 10), min(window[1], shown["doy"].max() + 10), 200)

    def draw(axes: Any) -> None:
        figure = axes.figure
        axes.remove()
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for panel, (_, season) in zip(panels.flat, seasons.iterrows(), strict=False):
            here = shown[(shown["plot"] == season["plot"]) & (shown["season"] == season["season"])]
            used = here["weight"] > 0
            panel.plot(here["doy"][used], here["ndvi"][used], "o", ms=2.5, color=COLOURS[0])
            panel.plot(here["doy"][~used], here["ndvi"][~used], "o", ms=2.5, mfc="none", mew=0.7, color=COLOURS[6])
            p = season[[f"par_{name}" for name in form.parameters]].to_numpy(dtype=float)
            if np.isfinite(p).all():
                panel.plot(days, evaluate(form, p, days), color=INK, linewidth=0.9)
                reach = stats.t.ppf(0.975, max(season["dof"], 1))
                for column, colour, _ in DATES:
                    _mark(panel, form, p, season[column], reach * season[f"{column}_se"], colour, days)
            flags = season["flags"].replace(",", ", ")
            panel.set_title(f"{season['plot']}, {season['season']}" + (f"\n{flags}" if flags else ""), fontsize=7)
            panel.tick_params(labelsize=7)
            panel.grid(color=INK, alpha=0.12, linewidth=0.5)
        for number in range(len(seasons), rows * columns):
            panels.flat[number].set_visible(False)
            if number >= columns:
                panels.flat[number - columns].tick_params(labelbottom=True)  # nothing below it bears the days
        panels[0, 0].set_xlim(days[0], days[-1])
        panels[0, 0].set_ylim(low - 0.05, high + 0.08)
        figure.supxlabel("day of the season", fontsize=8)
        figure.supylabel("NDVI", fontsize=8)

    return svg(draw, "", "", size=(9.0, 1.55 * rows + 0.4))


def _mark(panel: Any, form: Any, p: np.ndarray, day: float, half: float, colour: str, days: np.ndarray) -> None:
    """A date on the curve with its interval, cut at the panel's edges."""
    if not np.isfinite(day):
        return
    y = evaluate(form, p, np.array([day]))[0]
    panel.plot([day], [y], "D", ms=3, color=colour)
    if np.isfinite(half):
        panel.plot(
            [max(day - half, days[0]), min(day + half, days[-1])], [y, y], color=colour, linewidth=1.6, alpha=0.7
        )


def against_truth(fitted: "pd.DataFrame", column: str, unit: str) -> str:
    """Draw fitted values over the synthetic truth."""

    def draw(axes: Any) -> None:
        x, y = fitted[f"{column}_true"], fitted[column]
        axes.errorbar(x, y, yerr=fitted[f"{column}_se"], fmt="o", ms=2.5, lw=0.5, color=COLOURS[0], alpha=0.7)
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        axes.plot(ends, ends, color=INK, linewidth=0.8)

    return svg(draw, f"true {unit}", f"fitted {unit}, ± 1 SE", size=(4.2, 3.2))


def beeswarm(shap: "pd.DataFrame", unit: str) -> str:
    """Draw a row of points for each driver: Shapley values, coloured by the driver's value; the strongest on top."""
    order = shap.groupby("driver")["shap"].apply(lambda v: v.abs().mean()).sort_values().index.tolist()

    def draw(axes: Any) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        colours = LinearSegmentedColormap.from_list("low-high", [COLOURS[0], COLOURS[3], COLOURS[1]])
        points = None
        for row, driver in enumerate(order):
            here = shap[shap["driver"] == driver]
            rank = here["value"].rank(pct=True)
            points = axes.scatter(
                here["shap"], row + _spread(here["shap"].to_numpy()), c=rank, s=6, cmap=colours, vmin=0, vmax=1
            )
        axes.set_yticks(range(len(order)), order)
        axes.axvline(0, color=INK, linewidth=0.8)
        if points is not None:
            bar = axes.figure.colorbar(points, ax=axes, ticks=[0, 1], shrink=0.6)
            bar.ax.set_yticklabels(["low", "high"])
            bar.set_label("driver's value", labelpad=-14)

    return svg(draw, f"Shapley value, {unit}", "", size=(6.4, 0.5 * len(order) + 1.0))


def _spread(x: np.ndarray) -> np.ndarray:
    """Vertical offsets that keep points of like x apart: alternate sides, by order within a bin of x."""
    bins = np.floor((x - x.min()) / max(np.ptp(x), 1e-12) * 60).astype(int)
    place = np.zeros(len(x))
    for one in np.unique(bins):
        rows = np.flatnonzero(bins == one)
        place[rows] = (np.arange(len(rows)) + 1) // 2 * np.where(np.arange(len(rows)) % 2, 1, -1)
    return 0.36 * place / max(np.abs(place).max(), 6)


def dependence(shap: "pd.DataFrame", effects: "pd.DataFrame", unit: str, label: str) -> str:
    """Draw soil temperature's Shapley values over it, and each fold's accumulated local effects as lines."""

    def draw(axes: Any) -> None:
        axes.plot(shap["value"], shap["shap"], "o", ms=2.5, color=COLOURS[0], alpha=0.6, label="Shapley values")
        for number, (_, one) in enumerate(effects.groupby("fold")):
            name = "accumulated local effects, by fold" if number == 0 else None
            axes.plot(one["soil_t"], one["effect"], color=COLOURS[1], linewidth=0.9, alpha=0.8, label=name)

    return svg(draw, label, f"effect, {unit}", legend=True)


def waterfall(row: "pd.DataFrame", unit: str, observed: float) -> str:
    """Draw one row's Shapley values as steps from the base value to the prediction, the largest first."""
    row = row.iloc[np.argsort(-row["shap"].abs().to_numpy())]
    ends = float(row["base"].iloc[0]) + np.cumsum(row["shap"].to_numpy())
    starts = np.concatenate([[row["base"].iloc[0]], ends[:-1]])

    def draw(axes: Any) -> None:
        place = np.arange(len(row))[::-1]
        colours = [COLOURS[1] if value > 0 else COLOURS[0] for value in row["shap"]]
        axes.barh(place, ends - starts, left=starts, color=colours, height=0.6)
        for at, (_, cell), end in zip(place, row.iterrows(), ends, strict=True):
            side = 1 if cell["shap"] > 0 else -1
            place_at = {"xytext": (3 * side, 0), "textcoords": "offset points", "ha": "left" if side > 0 else "right"}
            axes.annotate(f"{cell['shap']:+.3g}", (end, at), va="center", fontsize=7, **place_at)
        names = [f"{cell['driver']} = {cell['value']:.3g}" for _, cell in row.iterrows()]
        axes.set_yticks(place, names)
        axes.axvline(starts[0], color=INK, linewidth=0.8, linestyle=":", label="base value")
        axes.axvline(ends[-1], color=INK, linewidth=0.8, label="prediction")
        axes.axvline(observed, color=COLOURS[2], linewidth=1.0, linestyle="--", label="observed")
        # Bars would cling to the axes' edge, with the base value and a label out of sight.
        axes.use_sticky_edges = False
        axes.margins(x=0.18)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)

    return svg(draw, unit, "", size=(7.6, 0.4 * len(row) + 1.0))


def intervals(
    names: Sequence[str], values: Sequence[float], low: Sequence[float], high: Sequence[float], unit: str
) -> str:
    """Draw values with intervals, one below the other; the line at 0 says no effect."""

    def draw(axes: Any) -> None:
        place = np.arange(len(names))[::-1]
        for at, x, a, b in zip(place, values, low, high, strict=True):
            axes.plot([a, b], [at, at], color=COLOURS[0], linewidth=2, alpha=0.7)
            axes.plot([x], [at], "o", ms=4, color=COLOURS[0])
        axes.set_yticks(place, names)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.axvline(0, color=INK, linewidth=0.8)

    return svg(draw, unit, "", size=(6.4, 0.34 * len(names) + 0.9))


def predicted(table: "pd.DataFrame", unit: str) -> str:
    """Draw observed over predicted values of left-out rows, a colour for each model."""

    def draw(axes: Any) -> None:
        for name, one in table.groupby("model", sort=False):
            axes.plot(one["predicted"], one["observed"], "o", ms=2, alpha=0.6, label=str(name))
        ends = [table["observed"].min(), table["observed"].max()]
        axes.plot(ends, ends, color=INK, linewidth=0.8)

    return svg(draw, f"predicted {unit}", f"observed {unit}", legend=True, size=(4.6, 3.6))
