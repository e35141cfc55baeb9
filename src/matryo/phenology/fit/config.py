"""What the fit is told. Imports no numba, so that help stays quick."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How curves are fitted."""

    curve: Literal["beck", "elmore", "gu", "klosterman", "gaussian"] = "beck"
    "Season curve."
    robust: Literal["none", "huber", "bisquare"] = "none"
    "How outliers are weighted down: none (least squares), huber, or bisquare."
    fit_steps: int = 300
    "Levenberg-Marquardt steps of one descent, at most."
    rate_max: float = 0.5
    "Upper bound of a limb's rate in 1/day; 10 to 90 % of the way takes 4.4/rate days."
    base_min: float = -0.2
    "Lower bound of the baseline; bare ground, snow and water lie above -0.2."
    threads: int = 0
    "Threads of the fit; 0 for one per core."

    def __post_init__(self) -> None:
        """Check the values."""
        if self.fit_steps < 1:
            raise ValueError(f"fit_steps is {self.fit_steps}; expected a whole number of 1 or more")
        if not 0.01 <= self.rate_max <= 5:
            raise ValueError(f"rate_max is {self.rate_max}; expected a rate between 0.01 and 5 per day")
        if not -1 <= self.base_min < 1:
            raise ValueError(f"base_min is {self.base_min}; expected a baseline from -1 to below 1")
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}; expected 0 (one per core) or more")
