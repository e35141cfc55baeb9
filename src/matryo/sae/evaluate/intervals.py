"""Means over seeds with their 95 % intervals. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean, and Student's t interval around it."""

    mean: float
    low: float
    high: float
    count: int


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean ± t_{0.975, n−1} · s / √n; a single value has the interval (−∞, ∞), none has nan.

    The interval is over what the values differ in, such as seeds, and takes them to be normally distributed.
    """
    n = len(values)
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    from scipy.stats import t

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


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
