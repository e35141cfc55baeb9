from .config import ColumnConfig
from .pack import Series, pack_series
from .problems import Problem, Problems
from .tables import column_dates, column_numbers, measured_numbers, need_columns, read_table

__all__ = [
    "ColumnConfig",
    "Problem",
    "Problems",
    "Series",
    "column_dates",
    "column_numbers",
    "measured_numbers",
    "need_columns",
    "pack_series",
    "read_table",
]
