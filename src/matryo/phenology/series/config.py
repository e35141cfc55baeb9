"""Which column is what, and when a season begins. Imports no pandas, so that help stays quick."""

from dataclasses import dataclass
from typing import Literal

SOUTH_START = 182
"""First day of a southern season, counted from 1 January of the year it is named after: 1 July."""


@dataclass(frozen=True, kw_only=True)
class ColumnConfig:
    """The columns of an NDVI table, and the season they are cut into."""

    plot: str = "plot"
    "Column of the plot (or pixel)."
    date: str = "date"
    "Column of the date, as 2014-05-31."
    ndvi: str = "ndvi"
    "Column of NDVI (or EVI, GCC)."
    weight: str | None = None
    "Column of weights of 0 or more; a visit's error variance is proportional to 1/weight."
    quality: str | None = None
    "Column of quality words, which --quality-weight turns into weights."
    quality_weight: tuple[str, ...] = ()
    "Weight of a quality word, repeatable: good=1, cloud=0.2; words not named weigh 1."
    site: str | None = None
    "Column of the site; used when called site."
    transect: str | None = None
    "Column of the transect; used when called transect."
    ndvi_scale: float = 1.0
    "Factor from the stored value to NDVI, such as 0.0001 for MODIS."
    hemisphere: Literal["north", "south"] = "north"
    "A season is the calendar year in the north; in the south it begins on 1 July of the year it is named after."
    season_start: int | None = None
    "First day of the season instead, counted from 1 January of the year it is named after."

    def __post_init__(self) -> None:
        """Check the values."""
        if self.season_start is not None and not -180 <= self.season_start <= 366:
            raise ValueError(f"season_start is {self.season_start}; expected a day from -180 to 366")
        if not self.ndvi_scale > 0:
            raise ValueError(f"ndvi_scale is {self.ndvi_scale}; expected a positive factor such as 0.0001")
        self.weights_of_quality()

    @property
    def window(self) -> tuple[float, float]:
        """First and last day of a season, counted from 1 January of the year it is named after."""
        start = self.season_start if self.season_start is not None else SOUTH_START if self.hemisphere == "south" else 1
        return float(start), float(start + 365)

    def weights_of_quality(self) -> dict[str, float]:
        """The weight of each quality word."""
        weights = {}
        for text in self.quality_weight:
            word, _, number = text.partition("=")
            try:
                weights[word] = float(number)
            except ValueError:
                weights[word] = -1.0
            if not word or not weights[word] >= 0:
                raise ValueError(f"quality_weight is {text!r}; expected WORD=WEIGHT with a weight of 0 or more")
        return weights
