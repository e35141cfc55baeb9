"""Accumulated local effects of one driver (Apley and Zhu 2020).

ALE(x) = Σ over bins up to x of the mean, over the rows in the bin, of f(upper edge, rest) − f(lower edge, rest); then
centred. Only small steps from real rows are taken, so correlated drivers are not torn apart as in partial dependence.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BINS = 20


@dataclass(frozen=True)
class Ale:
    """Edges of the bins, the effect at each (centred over rows), rows in each bin, and the slope over rows."""

    edges: np.ndarray
    effect: np.ndarray
    counts: np.ndarray
    slope: float


def accumulate_effects(
    predict: Callable[[np.ndarray], np.ndarray], X: np.ndarray, column: int, bins: int = BINS
) -> Ale:
    """ALE of a column of X (n, k), with bins of about equal numbers of rows; NaN slope where the column is constant."""
    x = X[:, column]
    edges = np.unique(np.quantile(x, np.linspace(0, 1, bins + 1)))
    if len(edges) < 2:
        return Ale(edges, np.zeros(len(edges)), np.array([len(x)]), np.nan)
    place = np.clip(np.searchsorted(edges, x, side="left") - 1, 0, len(edges) - 2)
    low, high = X.copy(), X.copy()
    low[:, column], high[:, column] = edges[place], edges[place + 1]
    step = predict(high) - predict(low)
    counts = np.bincount(place, minlength=len(edges) - 1)
    local = np.bincount(place, weights=step, minlength=len(edges) - 1) / np.maximum(counts, 1)
    effect = np.concatenate([[0.0], np.cumsum(local)])
    at_rows = np.interp(x, edges, effect)
    centred = effect - at_rows.mean()
    slope = np.sum((x - x.mean()) * at_rows) / np.sum((x - x.mean()) ** 2)
    return Ale(edges, centred, counts, float(slope))
