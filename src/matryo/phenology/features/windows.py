"""Drivers of each season from the days before a cut-off, and from no other day."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false, reportOperatorIssue=false, reportAssignmentType=false
# (pandas' inline types call its own everyday idioms errors)

from typing import TYPE_CHECKING

import numpy as np

from matryo.phenology.features.config import CHILL_DAYS, FeatureConfig
from matryo.phenology.features.daily import Daily
from matryo.phenology.series import Problems

if TYPE_CHECKING:
    import pandas as pd

SOURCE = {"gdd": "air_t", "chill": "air_t"}
"""Variable behind a driver of another name."""


def earliest(dates: np.ndarray) -> int:
    """The cut-off of a target: its earliest date among the rows given, rounded down; windows end on the day before.

    Give it the training rows' dates only: that no window sees an event then holds for them by construction, and a
    held-out date has no say in any driver.

    Raises:
        ValueError: There is no date.
    """
    known = dates[np.isfinite(dates)]
    if not len(known):
        raise ValueError("no season has a date for this target; expected at least one fit that is not flagged")
    return int(np.floor(known.min()))


def build_features(
    keys: "pd.DataFrame", daily: dict[str, Daily], cutoff: int, config: FeatureConfig, season_start: float = 1.0
) -> "pd.DataFrame":
    """The drivers of every row of a season table, from days before `cutoff` (a day of the season, as in `Series.t`).

    mean, sum over [cutoff − window_days, cutoff); gdd = Σ max(0, air_t − base) over [season_start, cutoff); chill =
    share of [cutoff − 120, cutoff) with air_t in the chilling range, times 120. A mean, sum or count over days with
    gaps is scaled to the whole window; with less than `coverage` of the days it is NaN.
    """
    import pandas as pd

    year = keys["season"].to_numpy(dtype=int)
    january = (year - 1970).astype("datetime64[Y]").astype("datetime64[D]")
    columns = {}
    for name in config.feature:
        variable = daily[SOURCE.get(name, name)]
        values, length = variable.values, config.window_days
        if name == "gdd":
            values, length = np.maximum(values - config.gdd_base, 0), max(int(cutoff - season_start), 1)
        elif name == "chill":
            inside = (values >= config.chill_low) & (values <= config.chill_high)
            values, length = np.where(np.isnan(values), np.nan, inside), CHILL_DAYS
        stop = (january - variable.first).astype(int) + cutoff - 1  # day 1 is 1 January, and the cut-off is left out
        mean = _window_mean(values, variable.rows(keys), stop - length, stop, config.coverage)
        columns[name] = mean * (length if name in ("precip", "gdd", "chill") else 1)
    return pd.DataFrame(columns, index=keys.index)


def _window_mean(
    values: np.ndarray, unit: np.ndarray, start: np.ndarray, stop: np.ndarray, coverage: float
) -> np.ndarray:
    """Mean over [start, stop) of each row's unit; NaN with too few days, or without a unit."""
    days = values.shape[1]
    known = ~np.isnan(values)
    total = np.concatenate([np.zeros((len(values), 1)), np.cumsum(np.where(known, values, 0.0), axis=1)], axis=1)
    count = np.concatenate([np.zeros((len(values), 1)), np.cumsum(known, axis=1)], axis=1)
    a, b = np.clip(start, 0, days), np.clip(stop, 0, days)
    u = np.maximum(unit, 0)
    n = count[u, b] - count[u, a]
    enough = (unit >= 0) & (n >= coverage * (stop - start)) & (n > 0)
    return np.where(enough, (total[u, b] - total[u, a]) / np.maximum(n, 1), np.nan)


def note_uncovered(
    keys: "pd.DataFrame", features: "pd.DataFrame", cutoff: int, target: str, problems: Problems
) -> None:
    """Note the seasons for which a driver's window has too few days of data."""
    for table, names in (("soil", ["soil_t"]), ("weather", [name for name in features if name != "soil_t"])):
        short = [name for name in names if name in features and features[name].isna().any()]
        if short:
            gone = features[short].isna().any(axis=1)
            seasons = ", ".join(map(str, dict.fromkeys(keys["season"][gone])))
            what = f"too few days of data before day {cutoff} for {', '.join(short)} of {target} in {seasons}"
            problems.add(table, f"{what}: these seasons are left out", plots=keys["plot"][gone])
