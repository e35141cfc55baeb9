"""A mean over seeds, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matryo.sae.evaluate.seed_intervals import mean_interval


@dataclass(frozen=True)
class Estimate:
    """mean ± t₀.₉₇₅(s − 1) · sd / √s over s values; no interval of a single one."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return sum(self.values) / len(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lower and upper end of the 95 % interval."""
        if len(self.values) < 2:
            return None
        found = mean_interval(self.values)
        return found.low, found.high


def mean_over(estimates: Sequence[Estimate]) -> Estimate:
    """Seed by seed the mean of several, such as of the tasks: its interval is of that mean."""
    return Estimate(tuple(sum(values) / len(values) for values in zip(*(one.values for one in estimates), strict=True)))
