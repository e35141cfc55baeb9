"""Reading long tables: CSV or Parquet, checked column by column."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false, reportOperatorIssue=false, reportAssignmentType=false
# (pandas' inline types call its own everyday idioms errors)

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matryo.phenology.series.problems import Problems
from matryo.spine.errors import unknown

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".csv", ".csv.gz", ".tsv", ".parquet")
PHYSICAL = {"soil_t": (-90, 70), "air_t": (-90, 70), "precip": (0, 2000), "irradiance": (-50, 1500)}
"""What can be measured: °C, mm a day or composite, W/m². Beyond stand fill values such as -9999, or other units."""


def read_table(path: Path, text: Sequence[str | None] = ("plot", "site", "transect")) -> "pd.DataFrame":
    """Read a table; its index is the row number with the header as row 1. Cells stay text where CSV has text.

    A .csv whose header has semicolons, or tabs, and no comma is cut at those, with decimal commas beside semicolons, as
    spreadsheets write it where the comma is decimal. Blanks about column names are dropped.

    Args:
        path: The file.
        text: Columns of names, which stay as written: 007 is not 7, and 1 does not become 1.0 beside an empty cell.

    Raises:
        OSError: There is no such file.
        ValueError: It is no table of a known format, or it is empty.
    """
    import pandas as pd

    name = path.name.lower()
    if not name.endswith(FORMATS):
        raise ValueError(f"{path} has no known ending; expected one of {', '.join(FORMATS)}")
    try:
        if name.endswith(".parquet"):
            table = pd.read_parquet(path)
        else:
            table = _read_csv(path, name, [column for column in text if column])
    except OSError:
        raise
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}); save it as CSV UTF-8") from error
    except Exception as error:  # pandas, pyarrow and the decoder each have their own
        raise ValueError(f"{path} cannot be read as a table: {error}; expected a header and rows") from error
    if not len(table):
        raise ValueError(f"{path} has no rows; expected a header and at least one row")
    table.columns = [str(column).strip() for column in table.columns]
    table.index = range(2, len(table) + 2)
    return table


def _read_csv(path: Path, name: str, text: list[str]) -> "pd.DataFrame":
    import pandas as pd

    with (gzip.open if name.endswith(".gz") else open)(path, "rt", encoding="utf-8-sig") as file:
        header = file.readline()
    separator = "\t" if name.endswith(".tsv") else ","
    if separator not in header:
        separator = next((mark for mark in ";\t" if mark in header), separator)
    names = list(pd.read_csv(path, sep=separator, nrows=0, skipinitialspace=True).columns)
    names = [column for column in names if str(column).strip() in text]
    return pd.read_csv(
        path,
        sep=separator,
        decimal="," if separator == ";" else ".",
        low_memory=False,
        skipinitialspace=True,
        dtype=dict.fromkeys(names, str),
    )


def need_columns(table: "pd.DataFrame", columns: Sequence[str], name: str, flag: str = "") -> None:
    """Check that columns are there.

    Raises:
        ValueError: One is not; the nearest is offered, with the flag that names another.
    """
    for column in columns:
        if column not in table:
            raise unknown(
                f"{name} column", column, map(str, table.columns), flag or f"{name} has {list(table.columns)}"
            )


def column_numbers(table: "pd.DataFrame", column: str, name: str, problems: Problems) -> "pd.Series":
    """A column as numbers; cells that are no number are noted and become NaN."""
    import pandas as pd

    numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
    text = table[column].astype("string").str.strip().fillna("")
    bad = numbers.isna() & (text != "") & ~text.str.lower().isin(["nan", "na", "null", "none"])
    if bad.any():
        first = text[bad].iloc[0]
        problems.add(name, f"{column} is no number, such as {first!r}: taken as missing", table.index[bad])
    infinite = numbers.abs() == float("inf")
    if infinite.any():
        problems.add(name, f"{column} is infinite: taken as missing", table.index[infinite])
    return numbers.where(~infinite)


def measured_numbers(table: "pd.DataFrame", ours: str, column: str, name: str, problems: Problems) -> "pd.Series":
    """A column of a variable of `PHYSICAL` as numbers; what cannot have been measured is noted and becomes NaN.

    Raises:
        ValueError: Nothing else is left, as in a column of kelvins.
    """
    numbers = column_numbers(table, column, name, problems)
    low, high = PHYSICAL[ours]
    outside = (numbers < low) | (numbers > high)
    if outside.any():
        worst = f"{column} outside {low} to {high}, such as {numbers[outside].iloc[0]:g}"
        if outside.sum() == numbers.notna().sum():
            said = "expected °C, mm or W/m², and an empty cell where nothing was measured"
            raise ValueError(f"{name}: {worst}, in every row; {said}")
        problems.add(name, f"{worst}: taken as missing", table.index[outside])
    return numbers.where(~outside)


def column_dates(table: "pd.DataFrame", column: str, name: str, problems: Problems) -> "pd.Series":
    """A column as calendar dates as they are written; NaT where a cell is no date, which is noted.

    A clock time and a time zone are dropped: the date is that of the place of the visit.
    """
    import pandas as pd

    cells = table[column]
    if isinstance(cells.dtype, pd.DatetimeTZDtype):
        return cells.dt.tz_localize(None).dt.normalize()
    if pd.api.types.is_datetime64_any_dtype(cells.dtype):
        return cells.dt.normalize()
    text = cells.astype("string").str.strip().fillna("")
    zoned = text.str.contains(r"T.*(?:Z|[+-]\d\d:?\d\d)$|\d ?(?:Z|[+-]\d\d:?\d\d)$", regex=True) & (text.str.len() > 11)
    if zoned.any() and not zoned[text != ""].all():
        said = "some dates have a time zone and others none: the calendar date is taken as written"
        problems.add(name, f"{column}: {said}", table.index[zoned])
    dates = pd.to_datetime(
        text.str.extract(r"^(\d{4}([-/])\d{1,2}\2\d{1,2}|\d{8})(?:\D|$)")[0].str.replace("/", "-"),
        errors="coerce",
        format="mixed",
    )
    bad = dates.isna()
    if bad.any():
        first = text[bad].iloc[0]
        problems.add(
            name, f"{column} is no date, such as {first!r}: write it as 2014-05-31; left out", table.index[bad]
        )
    return dates
