"""A mean over seeds, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Student's t, 0.975, by degrees of freedom from 1; 1.96 (1 + 1.22/df) is within 0.3 % beyond.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_T += (2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)


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
        count = len(self.values)
        if count < 2:
            return None
        spread = math.sqrt(sum((value - self.mean) ** 2 for value in self.values) / (count - 1))
        t = _T[count - 2] if count - 2 < len(_T) else 1.96 * (1 + 1.22 / (count - 1))
        half = t * spread / math.sqrt(count)
        return self.mean - half, self.mean + half


def mean_over(estimates: Sequence[Estimate]) -> Estimate:
    """Seed by seed the mean of several, such as of the tasks: its interval is of that mean."""
    return Estimate(tuple(sum(values) / len(values) for values in zip(*(one.values for one in estimates), strict=True)))
