"""Visits that cannot be vegetation: single spikes, such as a cloud or a mistyped value, lose their weight."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """What is taken out before the fit."""

    spike: float = 0.0
    "Leave out a visit this far, in NDVI, below or above the line between its two neighbours; 0 keeps all."
    snow_below: float = -1.0
    "Leave out visits with NDVI below this, such as 0.1 for snow."

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.spike <= 2:
            raise ValueError(f"spike is {self.spike}; expected 0 (off) to 2 in NDVI")
        if not -1 <= self.snow_below < 1:
            raise ValueError(f"snow_below is {self.snow_below}; expected an NDVI from -1 (off) to below 1")


def clean_weights(t: np.ndarray, y: np.ndarray, w: np.ndarray, config: CleanConfig) -> np.ndarray:
    """Weights with those of spikes and snow set to 0.

    A spike differs from the line between the visits before and after it by more than `spike`, and both of these are on
    the same side of it: the flank of a season is steep, but its visits lie in order. Among neighbouring spikes only
    the largest goes, as a spike makes its neighbours look like one.

    Args:
        t: (n, m) days, ascending in each row where w > 0.
        y: (n, m) NDVI.
        w: (n, m) weights; 0 is no visit.
        config: Limits.
    """
    out = np.where(np.nan_to_num(y, nan=2.0) < config.snow_below, 0.0, w)
    if config.spike == 0:
        return out
    for i in range(len(y)):
        used = np.flatnonzero(out[i] > 0)
        if len(used) < 3:
            continue
        x, v = t[i, used], y[i, used]
        share = (x[1:-1] - x[:-2]) / np.maximum(x[2:] - x[:-2], 1e-9)
        off = v[1:-1] - (v[:-2] + share * (v[2:] - v[:-2]))
        alone = (v[1:-1] - v[:-2]) * (v[1:-1] - v[2:]) > 0
        size = np.concatenate([[0.0], np.where(alone, np.abs(off), 0.0), [0.0]])
        largest = (size[1:-1] >= size[:-2]) & (size[1:-1] >= size[2:])
        out[i, used[1:-1][(size[1:-1] > config.spike) & largest]] = 0.0
    return out
