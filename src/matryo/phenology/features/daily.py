"""Soil and weather tables → one row of days for each plot or site, so that windows are sums of slices."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false, reportOperatorIssue=false, reportAssignmentType=false
# (pandas' inline types call its own everyday idioms errors)

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matryo.phenology.series import Problems, column_dates, measured_numbers, need_columns

if TYPE_CHECKING:
    import pandas as pd

LONGEST_STEP = 16
"""Days that one value may stand for: 16-daily composites."""


@dataclass(frozen=True)
class Daily:
    """One variable, day by day.

    Attributes:
        first: The first day.
        values: (units, days), NaN where there is none.
        by: Column of the season table whose value names the unit; None if one unit serves all rows.
        units: Row of `values` of each unit.
    """

    first: np.datetime64
    values: np.ndarray
    by: str | None
    units: dict[str, int]

    def rows(self, keys: "pd.DataFrame") -> np.ndarray:
        """The unit of every row of a season table, −1 where there is none."""
        if self.by is None:
            return np.zeros(len(keys), dtype=int)
        return keys[self.by].astype("string").map(self.units).fillna(-1).to_numpy(dtype=int)


def read_daily(
    table: "pd.DataFrame",
    columns: dict[str, str],
    keys: "pd.DataFrame",
    problems: Problems,
    name: str,
    date: str = "date",
) -> dict[str, Daily]:
    """Read variables of a soil or weather table.

    A value stands for the days from its date to the next one of its unit, for as many days as the table's usual step
    and at most 16; what is further from it is missing.

    Args:
        table: Long, with a column plot or site if it is not the same for all plots.
        columns: Our name of each variable, and the table's.
        keys: The season table, whose plots and sites must be in it.
        problems: Where unusable rows are noted.
        name: What to call the table.
        date: Its column of dates.

    Raises:
        ValueError: A column is missing, or the table's units are none of the seasons'.
    """
    need_columns(table, [date, *columns.values()], name, "name another with --…-column, or leave the driver out")
    by = next((key for key in ("plot", "site") if key in table and key in keys), None)
    dates = column_dates(table, date, name, problems)
    numbers = {ours: measured_numbers(table, ours, theirs, name, problems) for ours, theirs in columns.items()}
    table = table.assign(_date=dates, _unit=table[by].astype("string") if by else "all", **numbers)
    table = table[table["_date"].notna() & table["_unit"].notna()]
    if not len(table):
        raise ValueError(f"{name} has no row with a date; write dates as 2014-05-31")
    units = {unit: i for i, unit in enumerate(dict.fromkeys(table["_unit"]))}
    if by:
        missing = [unit for unit in dict.fromkeys(keys[by].astype("string")) if unit not in units]
        if len(missing) == keys[by].nunique():
            raise ValueError(f"{name} has none of the seasons' {by}s; it has {list(units)[:5]}, they are {missing[:5]}")
        if missing:
            what = f"nothing for these {by}s: their drivers are missing"
            problems.add(name, what, plots=missing if by == "plot" else ())
    values = table.groupby(["_unit", "_date"])[list(columns)].transform("nunique")
    differ = (values > 1).any(axis=1)  # repeats of a site's values for each plot are no problem
    if differ.any():
        problems.add(name, "several rows of one unit and day with different values: averaged", table.index[differ])
    return {ours: _spread(table, ours, units, by) for ours in columns}


def _spread(table: "pd.DataFrame", column: str, units: dict[str, int], by: str | None) -> Daily:
    """Fill a variable's days, each value standing for the days up to the next."""
    known = table[table[column].notna()].groupby(["_unit", "_date"], as_index=False)[column].mean()
    first = table["_date"].min().to_numpy().astype("datetime64[D]")
    steps = known.sort_values(["_unit", "_date"]).groupby("_unit")["_date"].diff().dt.days.dropna()
    step = int(min(max(steps.median(), 1), LONGEST_STEP)) if len(steps) else 1
    days = (table["_date"].max().to_numpy().astype("datetime64[D]") - first).astype(int) + step
    values = np.full((len(units), days), np.nan)
    day = (known["_date"].to_numpy().astype("datetime64[D]") - first).astype(int)
    unit = known["_unit"].map(units).to_numpy(dtype=int)
    values[unit, day] = known[column].to_numpy()
    return Daily(first, _hold(values, step), by, units)


def _hold(values: np.ndarray, step: int) -> np.ndarray:
    """Let every value stand for `step` days, itself included, or up to the next value."""
    days = np.arange(values.shape[1])
    last = np.maximum.accumulate(np.where(np.isnan(values), -step, days), axis=1)
    held = np.take_along_axis(values, np.maximum(last, 0), axis=1)
    return np.where(days - last < step, held, np.nan)
