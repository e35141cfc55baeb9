"""The table of seasons: one row for each plot and season, with dates, standard errors and flags."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matryo.phenology.clean import CleanConfig, clean_weights
from matryo.phenology.fit import FitConfig, Fits, fit_curves
from matryo.phenology.season import METRICS, Measured, measure
from matryo.phenology.series import Problems, Series

if TYPE_CHECKING:
    import pandas as pd

CHOSEN = {"sos_doy": "sos_{}_doy", "eos_doy": "eos_{}_doy", "los_days": "los_{}_days"}
"""Columns that repeat one definition's metric."""


@dataclass(frozen=True)
class Seasons:
    """Fitted seasons: the table, and the fits and metrics it was made from, row by row."""

    table: "pd.DataFrame"
    fits: Fits
    measured: Measured
    weights: np.ndarray


def fit_seasons(series: Series, fit: FitConfig, clean: CleanConfig, definition: str, problems: Problems) -> Seasons:
    """Clean and fit every plot-season, and read off its metrics.

    Columns: plot, season, site and transect where known, visits, first_doy, last_doy, flags, rmse_ndvi (of the fit, by
    weight), dof, then the chosen definition's dates, then every metric, each with its standard error `…_se`, then the
    curve's parameters `par_…`. A flagged season is a row like any other.
    """
    weights = clean_weights(series.t, series.y, series.w, clean)
    fits = fit_curves(series.t, series.y, weights, fit, series.window)
    found = measure(fits.curve, fits.parameters, fits.covariance, series.window, fit.threads)
    names = fits.flag_names()
    visits = (weights > 0).sum(axis=1)
    short = [i for i, name in enumerate(names) if "too_few_points" in name and visits[i] > 0]
    if short:
        need = fits.curve.free + 1
        said = f"fewer than the {need} visits that {fits.curve.name} needs in a season (season "
        seasons = ", ".join(dict.fromkeys(str(series.keys["season"].iloc[i]) for i in short))
        problems.add("ndvi", f"{said}{seasons}): no dates", plots=series.keys["plot"].iloc[short])
    columns: dict[str, object] = {
        "visits": visits,
        "first_doy": np.where(visits > 0, fits.span[:, 0], np.nan),
        "last_doy": np.where(visits > 0, fits.span[:, 1], np.nan),
        "flags": names,
        "rmse_ndvi": np.sqrt(fits.cost / np.where(visits > 0, weights.sum(axis=1), np.nan)),
        "dof": fits.dof.astype(int),
    }
    for name, pattern in CHOSEN.items():
        columns |= {name: found[pattern.format(definition)], f"{name}_se": found.error(pattern.format(definition))}
    for metric in METRICS:
        columns |= {metric.name: found[metric.name], f"{metric.name}_se": found.error(metric.name)}
    errors = fits.standard_errors
    for k, name in enumerate(fits.curve.parameters):
        columns |= {f"par_{name}": fits.parameters[:, k], f"par_{name}_se": errors[:, k]}
    return Seasons(series.keys.assign(**columns), fits, found, weights)
