"""Targets, drivers and their windows. Imports no pandas, so that help stays quick."""

from dataclasses import dataclass

TARGETS = {"sos": "sos_doy", "pos": "pos_doy", "peak": "peak_ndvi", "eos": "eos_doy"}
"""What is explained, and its column in the table of seasons."""

FEATURES = {
    "soil_t": "mean soil temperature of the window, °C",
    "air_t": "mean air temperature of the window, °C",
    "precip": "precipitation of the window, mm",
    "irradiance": "mean irradiance of the window, W/m²",
    "gdd": "growing degree days: Σ max(0, air_t − base) from the season's first day to the cut-off, °C·d",
    "chill": "chilling days: days with air_t in the chilling range in the 120 days before the cut-off",
}
"""The drivers by name; all but soil_t are weather."""

CHILL_DAYS = 120


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """From which days drivers are taken; all windows end before the target's cut-off day."""

    feature: tuple[str, ...] = ("soil_t", "air_t", "precip", "irradiance", "gdd", "chill")
    "Drivers, repeatable: soil_t, air_t, precip, irradiance, gdd, chill."
    window_days: int = 60
    "Length of the preseason window."
    cutoff: int | None = None
    "Day before which all windows end; without it, the earliest date of the target in the training rows."
    gdd_base: float = 5.0
    "Base temperature of growing degree days, °C."
    chill_low: float = 0.0
    "Chilling range, °C, from."
    chill_high: float = 5.0
    "Chilling range, °C, to."
    coverage: float = 0.9
    "Share of a window's days that must have data."

    def __post_init__(self) -> None:
        """Check the values."""
        from matryo.spine.errors import unknown

        for name in self.feature:
            if name not in FEATURES:
                raise unknown("feature", name, FEATURES)
        if not self.feature or len(set(self.feature)) < len(self.feature):
            raise ValueError(f"feature is {self.feature}; expected one or more different names")
        if not 1 <= self.window_days <= 366:
            raise ValueError(f"window_days is {self.window_days}; expected 1 to 366")
        if not 0 < self.coverage <= 1:
            raise ValueError(f"coverage is {self.coverage}; expected a share above 0, at most 1")
        if not self.chill_low < self.chill_high:
            raise ValueError(f"chill_low {self.chill_low} is not below chill_high {self.chill_high}")
