"""Flags of the commands, and how they become the parts' own configs. Imports neither pandas nor numba."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from matryo.phenology.clean import CleanConfig
from matryo.phenology.features.config import TARGETS, FeatureConfig
from matryo.phenology.fit.config import FitConfig
from matryo.phenology.fit.flags import FLAGS
from matryo.phenology.models.config import ModelConfig
from matryo.phenology.series.config import ColumnConfig
from matryo.spine.errors import unknown
from matryo.spine.progress import say

if TYPE_CHECKING:
    from matryo.phenology.series import Problems

T = TypeVar("T")
Definition = Literal["der", "trs20", "trs50", "trs60", "gu", "kl"]


@dataclass(frozen=True, kw_only=True)
class SeasonOptions(FitConfig, CleanConfig):
    """How a season is fitted and read."""

    robust: Literal["none", "huber", "bisquare"] = "huber"
    "How outliers are weighted down: none (least squares), huber, or bisquare."
    definition: Definition = "der"
    "Start and end of season: der (steepest slope), trs20, trs50, trs60 (thresholds), gu (tangents), kl (curvature)."

    def __post_init__(self) -> None:
        """Check the values."""
        FitConfig.__post_init__(self)
        CleanConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class FitOptions(SeasonOptions, ColumnConfig):
    """What to fit."""

    plots: int = 50
    "Synthetic site: plots, in transects of five."
    years: int = 6
    "Synthetic site: years from 2014 on."
    visits: int = 18
    "Synthetic site: visits per plot and year."
    noise: float = 0.02
    "Synthetic site: standard deviation of an NDVI visit."
    seed: int = 0
    "Synthetic site: seed."

    def __post_init__(self) -> None:
        """Check the values."""
        SeasonOptions.__post_init__(self)
        ColumnConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class RasterOptions(FitConfig):
    """Which pixels, and how they are fitted."""

    robust: Literal["none", "huber", "bisquare"] = "huber"
    "How outliers are weighted down: none (least squares), huber, or bisquare."
    definition: Definition = "der"
    "Start and end of season: der (steepest slope), trs20, trs50, trs60 (thresholds), gu (tangents), kl (curvature)."
    variable: str | None = None
    "Variable of a NetCDF or Zarr file, where there are several."
    dates: Path | None = None
    "Text file with the date of each band of a GeoTIFF, where the band names hold none."
    chunk: int = 128
    "Pixels on a side of a block."
    ndvi_scale: float = 1.0
    "Factor from the stored value to NDVI, such as 0.0001 for MODIS."
    hemisphere: Literal["north", "south"] = "north"
    "A season is the calendar year in the north; in the south it begins on 1 July of the year it is named after."
    height: int = 64
    "Synthetic stack: rows."
    width: int = 96
    "Synthetic stack: columns."
    seed: int = 0
    "Synthetic stack: seed."

    def __post_init__(self) -> None:
        """Check the values."""
        FitConfig.__post_init__(self)
        for name in ("chunk", "height", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a whole number of 1 or more")

    @property
    def window(self) -> tuple[float, float]:
        """First and last day of a season, counted from 1 January of the year it is named after."""
        return ColumnConfig(hemisphere=self.hemisphere).window


@dataclass(frozen=True, kw_only=True)
class DriverOptions(FeatureConfig, ModelConfig):
    """What explains what."""

    target: tuple[Literal["sos", "pos", "peak", "eos"], ...] = ("sos", "pos", "peak")
    "What to explain, repeatable: sos, pos, peak, eos."
    soil: Path | None = None
    "Table of soil temperature: plot (unless it is one for all), date, soil_t in °C. A synthetic fit has its own."
    weather: Path | None = None
    "Table of weather: site or plot (unless it is one for all), date, and air_t, precip, irradiance."
    weather_date: str = "date"
    "Column of the date in both tables."
    soil_column: str = "soil_t"
    "Column of soil temperature."
    air_column: str = "air_t"
    "Column of air temperature."
    precip_column: str = "precip"
    "Column of precipitation."
    irradiance_column: str = "irradiance"
    "Column of irradiance."
    exclude: tuple[str, ...] = ("too_few_points", "at_bound", "rank_deficient", "not_converged", "peak_outside_data")
    "Flags whose seasons are left out of models, repeatable; they stay in tables and report. none keeps all."
    explain: Literal["best", "ols", "ridge", "mlp", "boosting", "gp"] = "best"
    "Model for SHAP and local effects: best on left-out rows, or by name."

    def __post_init__(self) -> None:
        """Check the values."""
        FeatureConfig.__post_init__(self)
        ModelConfig.__post_init__(self)
        if not self.target or len(set(self.target)) < len(self.target):
            raise ValueError(f"target is {self.target}; expected one or more different of {', '.join(TARGETS)}")
        for flag in self.exclude:
            if flag not in (*FLAGS, "none"):
                raise unknown("flag to exclude", flag, [*FLAGS, "none"])
        if self.explain != "best" and self.explain not in self.model:
            raise ValueError(
                f"explain is {self.explain!r}, which is not among the models {', '.join(self.model)}; add it"
            )


def part(options: Any, cls: type[T]) -> T:
    """The config of one part, from options that have all its fields."""
    return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})  # pyright: ignore[reportArgumentType]


def tell(problems: "Problems") -> None:
    """Print what could not be used, a line each."""
    for problem in problems.found:
        say(f"note: {problem}", problem=problem.what, table=problem.table, rows=problem.rows, plots=problem.plots)


def as_text(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = []
    for row in (headers, *rows):
        cells = [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
