"""Reading long tables: CSV or Parquet, checked column by column."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false, reportOperatorIssue=false, reportAssignmentType=false
# (pandas' inline types call its own everyday idioms errors)

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matryo.phenology.series.problems import Problems
from matryo.spine.errors import unknown

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".csv", ".csv.gz", ".tsv", ".parquet")


def read_table(path: Path) -> "pd.DataFrame":
    """Read a table; its index is the row number with the header as row 1. Cells stay text where CSV has text.

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
            table = pd.read_csv(path, sep="\t" if name.endswith(".tsv") else ",", low_memory=False)
    except OSError:
        raise
    except Exception as error:  # pandas, pyarrow and the decoder each have their own
        raise ValueError(f"{path} cannot be read as a table: {error}; expected a header and rows") from error
    if not len(table):
        raise ValueError(f"{path} has no rows; expected a header and at least one row")
    table.index = range(2, len(table) + 2)
    return table


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
    return numbers.where(numbers.abs() < float("inf"))


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
        text.str.extract(r"^(\d{4}-\d{1,2}-\d{1,2}|\d{8})(?:\D|$)")[0], errors="coerce", format="mixed"
    )
    bad = dates.isna()
    if bad.any():
        first = text[bad].iloc[0]
        problems.add(
            name, f"{column} is no date, such as {first!r}: write it as 2014-05-31; left out", table.index[bad]
        )
    return dates
