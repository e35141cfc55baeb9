"""What in a table could not be used: where, why, and what was done about it. The rest is processed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHOWN = 12
"""Row numbers written out in a message."""


@dataclass(frozen=True)
class Problem:
    """Rows of a table that share a problem; `rows` count the header as row 1, as a spreadsheet does."""

    table: str
    what: str
    rows: tuple[int, ...] = ()
    plots: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line: table, rows, plots, problem."""
        where = f"{self.table}"
        if self.rows:
            where += f", row{'s' if len(self.rows) > 1 else ''} {shortened(self.rows)}"
        if self.plots:
            where += f", plot{'s' if len(self.plots) > 1 else ''} {shortened(self.plots)}"
        return f"{where}: {self.what}"


class Problems:
    """The list of problems of one run, in the order they were met."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, table: str, what: str, rows: Iterable[int] = (), plots: Iterable[object] = ()) -> None:
        """Note a problem of some rows or plots."""
        names = tuple(dict.fromkeys(str(plot) for plot in plots))
        self.found.append(Problem(table, what, tuple(int(row) for row in rows), names))


def shortened(items: Sequence[object]) -> str:
    """Write a list, the rest of a long one as a count.

    Example:
        >>> shortened([2, 3, 9])
        '2, 3, 9'
    """
    more = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return ", ".join(map(str, items[:SHOWN])) + more
