"""How large the synthetic site is, and its truth. Imports no numba, so that help stays quick."""

from dataclasses import dataclass

SOIL_SLOPE, PEAK_SLOPE, AIR_SLOPE = -1.5, 0.003, -2.0
"""The truth: days per °C of soil for SOS and POS, NDVI per °C of soil for PEAK, days per °C of spring air for SOS."""


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """How large the synthetic site is."""

    plots: int = 50
    "Synthetic site: plots, in transects of five."
    years: int = 6
    "Synthetic site: years from 2014 on."
    visits: int = 18
    "Synthetic site: visits per plot and year."
    noise: float = 0.02
    "Synthetic site: standard deviation of an NDVI visit."

    def __post_init__(self) -> None:
        """Check the values."""
        for name, least in (("plots", 1), ("years", 1), ("visits", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a whole number of {least} or more")
        if not 0 <= self.noise < 0.5:
            raise ValueError(f"noise is {self.noise}; expected a standard deviation in NDVI, such as 0.02")
