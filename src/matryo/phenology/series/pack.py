"""A table of visits → one padded row of arrays for each plot and season."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false, reportOperatorIssue=false, reportAssignmentType=false
# (pandas' inline types call its own everyday idioms errors)

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matryo.phenology.series.config import ColumnConfig
from matryo.phenology.series.problems import Problems
from matryo.phenology.series.tables import column_dates, column_numbers, need_columns

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Series:
    """Visits of n plot-seasons, padded to m.

    Attributes:
        keys: A row for each: plot, season, and site and transect where known.
        t: (n, m) days from 1 January of the season's year, which is day 1; they go on past 365 into the next year.
        y: (n, m) NDVI, NaN where there is none.
        w: (n, m) weights, 0 in the padding.
        rows: (n, m) row of the table, 0 in the padding.
        window: First and last day of a season.
    """

    keys: "pd.DataFrame"
    t: np.ndarray
    y: np.ndarray
    w: np.ndarray
    rows: np.ndarray
    window: tuple[float, float]

    def __len__(self) -> int:
        """Number of plot-seasons."""
        return len(self.keys)


def pack_series(table: "pd.DataFrame", columns: ColumnConfig, problems: Problems, name: str = "ndvi") -> Series:
    """Check a long table of visits and cut it into plot-seasons.

    Rows that cannot be used are noted in `problems` with their numbers and left out; visits of one plot on one day are
    averaged. A plot-season without a usable visit stays, without one.

    Raises:
        ValueError: A column is missing, or no row can be used.
    """
    visits = _visits(table, columns, problems, name)
    visits = visits[visits["date"].notna() & visits["plot"].notna()]
    if not visits["y"].notna().any():
        raise ValueError(f"{name} has no row with a plot, a date and a usable {columns.ndvi}; see the rows named above")
    start = columns.window[0]
    shifted = visits["date"] - np.timedelta64(int(start) - 1, "D")
    visits["season"] = shifted.dt.year
    first = visits["season"].astype(str).add("-01-01").astype("datetime64[s]")
    visits["t"] = (visits["date"] - first).dt.days + 1
    unsorted = visits.groupby("plot", sort=False)["date"].diff().dt.days < 0
    if unsorted.any():
        problems.add(name, "dates are not in order: sorted", visits.index[unsorted], visits["plot"][unsorted])
    _note_empty(visits, problems, name)
    visits = _merge_duplicates(visits, problems, name)
    visits = visits.sort_values(["plot", "season", "t"], kind="stable")
    groups = visits.groupby(["plot", "season"], sort=False)
    i, k = groups.ngroup().to_numpy(), groups.cumcount().to_numpy()
    shape = (int(i.max()) + 1, int(k.max()) + 1)
    t, y, w = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape)
    rows = np.zeros(shape, dtype=np.int64)
    t[i, k], y[i, k], rows[i, k] = visits["t"], visits["y"], visits["row"]
    w[i, k] = np.where(visits["y"].notna(), visits["w"], 0.0)
    keys = visits.groupby(["plot", "season"], sort=False, as_index=False)[
        [c for c in ("site", "transect") if c in visits]
    ].first()
    return Series(keys, t, y, w, rows, columns.window)


def _visits(table: "pd.DataFrame", columns: ColumnConfig, problems: Problems, name: str) -> "pd.DataFrame":
    """The table's columns under our names, with cells that cannot be used set to missing."""
    import pandas as pd

    for column, flag in ((columns.plot, "--plot"), (columns.date, "--date"), (columns.ndvi, "--ndvi")):
        need_columns(
            table, [column], name, f"name the column with {flag}; there are {', '.join(map(str, table.columns))}"
        )
    visits = pd.DataFrame({"plot": table[columns.plot].astype("string"), "row": table.index}, index=table.index)
    visits["date"] = column_dates(table, columns.date, name, problems)
    visits["y"] = column_numbers(table, columns.ndvi, name, problems) * columns.ndvi_scale
    outside = visits["y"].abs() > 1
    if outside.any():
        hint = ""
        if visits["y"].abs().median() > 10:
            hint = "; if the values are stored as integers give --ndvi-scale 0.0001"
        worst = visits["y"][outside].iloc[0]
        problems.add(name, f"{columns.ndvi} outside [-1, 1], such as {worst:g}: left out{hint}", table.index[outside])
        visits.loc[outside, "y"] = np.nan
    if visits["plot"].isna().any():
        problems.add(name, f"{columns.plot} is empty: left out", table.index[visits["plot"].isna()])
    visits["w"] = 1.0
    if columns.quality is not None:
        need_columns(table, [columns.quality], name)
        weights, words = columns.weights_of_quality(), table[columns.quality].astype("string")
        visits["w"] = words.map(lambda word: weights.get(word, 1.0), na_action="ignore").astype(float).fillna(1.0)
    if columns.weight is not None:
        need_columns(table, [columns.weight], name)
        given = column_numbers(table, columns.weight, name, problems)
        negative = given < 0
        if negative.any():
            problems.add(name, f"{columns.weight} below 0: taken as 0", table.index[negative])
        visits["w"] *= given.clip(lower=0).fillna(0.0)
    for key in ("site", "transect"):
        column = getattr(columns, key)
        if column is not None:
            need_columns(table, [column], name)
        if (column or key) in table:
            visits[key] = table[column or key].astype("string")
    return visits


def _note_empty(visits: "pd.DataFrame", problems: Problems, name: str) -> None:
    usable = visits["y"].notna().groupby(visits["plot"]).any()
    for plot in usable.index[~usable]:
        rows = visits.index[visits["plot"] == plot]
        problems.add(name, "no usable NDVI at all: no season is fitted", rows, [plot])


def _merge_duplicates(visits: "pd.DataFrame", problems: Problems, name: str) -> "pd.DataFrame":
    """Average visits of one plot on one day, by weight."""
    twice = visits.duplicated(["plot", "date"], keep=False)
    if not twice.any():
        return visits
    problems.add(name, "several visits of a plot on one day: averaged", visits.index[twice], visits["plot"][twice])
    known = visits["y"].notna()
    visits = visits.assign(wy=(visits["w"] * visits["y"]).fillna(0.0), w=visits["w"].where(known, 0.0))
    rest = {c: "first" for c in visits if c not in ("plot", "date", "wy", "w")}
    merged = visits.groupby(["plot", "date"], sort=False, as_index=False).agg(
        {**rest, "wy": "sum", "w": "sum", "y": "mean"}
    )
    merged["y"] = np.where(merged["w"] > 0, merged["wy"] / merged["w"].where(merged["w"] > 0, 1.0), merged["y"])
    return merged
