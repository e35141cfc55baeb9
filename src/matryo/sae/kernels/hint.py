"""A guess of the smallest value that will be selected: the last batch's."""

from __future__ import annotations

import math

MARGIN = 0.97
"""A selection threshold drifts by less than this between steps; below it the exact fallback takes over."""


def first_bound(hint: float | None) -> float:
    """Where a selection begins: a little below the guess, at 0 without one."""
    return max(0.0, MARGIN * hint) if hint and math.isfinite(hint) else 0.0
