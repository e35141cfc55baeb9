"""Days per °C: linear slopes whose errors know that plots and years repeat.

Soil: y = a[year] + b·soil_t, weights 1/(τ² + SE²). A year's intercept takes up its weather, so b compares plots within
years. Its variance is two-way clustered, V_plot + V_year − V_row (Cameron, Gelbach and Miller 2011), each with G/(G −
1), and not below V_row; the interval takes t(G − 1) with G the smaller number of clusters. Where soil temperature is
the same for all plots of a year it is a regression of year means with t(G − 2).

Weather: y = a + b·weather + c·soil_t, one weather driver at a time, clustered by year with t(G − 1).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matryo.phenology.models import Study, between_variance, weights_of

if TYPE_CHECKING:
    import pandas as pd

WEAK = 10
"""Clusters below which inference is called weak."""

WITHIN = 0.05
"""Standard deviation within years, in units of the driver, above which it differs between plots."""


@dataclass(frozen=True)
class Slope:
    """A slope of a target on a driver, per unit of it, with a 95 % interval and where it comes from."""

    target: str
    driver: str
    slope: float
    se: float
    low: float
    high: float
    dof: int
    rows: int
    method: str
    note: str
    definition: str = ""


def soil_slope(study: Study, definition: str = "") -> Slope | None:
    """The slope of a study's target on soil temperature; None if soil_t is no driver."""
    if "soil_t" not in study.names:
        return None
    X, _ = study.design(np.ones(len(study), dtype=bool))
    soil, year, plot = X[:, study.names.index("soil_t")], study.season, study.plot
    years, index = np.unique(year, return_inverse=True)
    centred = soil - (np.bincount(index, weights=soil) / np.bincount(index))[index]
    if centred.std() < WITHIN or len(np.unique(plot)) < 2:
        return _year_means(study, soil, "soil_t", definition)
    D = (index[:, None] == np.arange(len(years))).astype(float)
    tau2 = between_variance(np.column_stack([soil, D[:, 1:]]), study.y, study.se)
    w = weights_of(study.se, tau2)
    A = np.column_stack([soil, D])
    b, row = _clustered(A, study.y, w, np.arange(len(study)))
    parts = [_clustered(A, study.y, w, labels)[1][0, 0] for labels in (plot, year)]
    variance = max(parts[0] + parts[1] - row[0, 0], row[0, 0])
    plots = len(np.unique(plot))
    return _slope(
        study, "soil_t", b[0], variance, min(plots, len(years)) - 1,
        f"within years, weighted, two-way clusters ({plots} plots, {len(years)} years)", min(plots, len(years)),
        definition,
    )  # fmt: skip


def weather_slopes(study: Study) -> list[Slope]:
    """The slope on each weather driver, with soil temperature beside it where that differs between plots."""
    X, _ = study.design(np.ones(len(study), dtype=bool))
    year = study.season
    found = []
    soil = X[:, study.names.index("soil_t")] if "soil_t" in study.names else None
    if soil is not None:
        index = np.unique(year, return_inverse=True)[1]
        within = soil - (np.bincount(index, weights=soil) / np.bincount(index))[index]
        soil = within if within.std() >= WITHIN else None  # its part within years: between years it follows the weather
    for k, name in enumerate(study.names):
        if name == "soil_t" or X[:, k].std() == 0 or len(np.unique(year)) < 3:
            continue
        columns = [X[:, k]] if soil is None else [X[:, k], soil]
        w = weights_of(study.se, between_variance(np.column_stack(columns), study.y, study.se))
        A = np.column_stack([*columns, np.ones(len(study))])
        b, V = _clustered(A, study.y, w, year)
        years = len(np.unique(year))
        beside = "" if soil is None else " beside soil_t"
        method = f"one at a time{beside}, weighted, clusters of {years} years"
        found.append(_slope(study, name, b[0], V[0, 0], years - 1, method, years))
    return found


def definition_slopes(studies: dict[str, Study]) -> list[Slope]:
    """The soil slope under every definition of the event; the definitions are the keys."""
    return [found for name, study in studies.items() if (found := soil_slope(study, name)) is not None]


def with_definition(seasons: "pd.DataFrame", event: str, definition: str) -> "pd.DataFrame":
    """The table of seasons with another definition's dates in the columns that are modelled."""
    column, source = f"{event}_doy", f"{event}_{definition}_doy"
    return seasons.assign(**{column: seasons[source], f"{column}_se": seasons[f"{source}_se"]})


def _year_means(study: Study, x: np.ndarray, driver: str, definition: str) -> Slope:
    """Ordinary regression of (weighted) year means: the driver varies between years only, so years are the sample."""
    w = weights_of(study.se, between_variance(x[:, None], study.y, study.se))
    years, index = np.unique(study.season, return_inverse=True)
    G, total = len(years), np.bincount(index, weights=w)
    y, z = (np.bincount(index, weights=w * v) / total for v in (study.y, x))
    method = f"regression of {G} year means (soil temperature is the same for all plots of a year)"
    spread = np.sum((z - z.mean()) ** 2)
    if G < 3 or spread == 0:
        return _slope(study, driver, np.nan, np.nan, max(G - 2, 0), method, G, definition)
    b = np.sum((z - z.mean()) * y) / spread
    residual = y - y.mean() - b * (z - z.mean())
    return _slope(study, driver, b, np.sum(residual**2) / (G - 2) / spread, G - 2, method, G, definition)


def _clustered(A: np.ndarray, y: np.ndarray, w: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares, with the sandwich (AᵀWA)⁻¹(Σ_g s_g·s_gᵀ)(AᵀWA)⁻¹·G/(G − 1), s_g = Σ_{i∈g} w·r·a."""
    bread = np.linalg.pinv(A.T @ (A * w[:, None]))
    b = bread @ (A.T @ (w * y))
    scores = A * (w * (y - A @ b))[:, None]
    index = np.unique(labels, return_inverse=True)[1]
    sums = np.zeros((index.max() + 1, A.shape[1]))
    np.add.at(sums, index, scores)
    G = len(sums)
    return b, bread @ (sums.T @ sums) @ bread * (G / (G - 1) if G > 1 else np.nan)


def _slope(study: Study, driver, b, variance, dof: int, method: str, clusters: int, definition: str = "") -> Slope:
    from scipy import stats

    se = float(np.sqrt(variance)) if variance >= 0 else np.nan
    half = float(stats.t.ppf(0.975, dof)) * se if dof > 0 else np.nan
    note = f"t({dof})" if dof > 0 else "no interval: too few years"
    if clusters < WEAK and dof > 0:
        note += f"; {clusters} clusters: weak inference, the interval leans on normal year effects"
    b = float(b)
    return Slope(study.target, driver, b, se, b - half, b + half, dof, len(study), method, note, definition)
