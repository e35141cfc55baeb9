"""Fitting many series at once, block by block on threads; the compiled blocks hold no lock of Python's."""

from dataclasses import dataclass

import numpy as np

from matryo.phenology.curves import Curve, curve
from matryo.phenology.curves.blocks import run_blocks
from matryo.phenology.fit.config import FitConfig
from matryo.phenology.fit.flags import flag_names

LOSSES = ("none", "huber", "bisquare")


@dataclass(frozen=True)
class Fits:
    """Curves fitted to n series.

    Attributes:
        curve: The form; its `parameters` name the columns.
        window: First and last day in which dates were sought.
        parameters: (n, k).
        covariance: (n, k, k); zero rows where a parameter lies on its bound or is held, NaN where there is none.
        cost: (n,) Σ w·r².
        variance: (n,) of a visit of weight 1.
        dof: (n,) visits − fitted parameters.
        starts: (n,) descents begun.
        flags: (n,) bits, see `FLAGS`.
        span: (n, 2) first and last visit used.
    """

    curve: Curve
    window: tuple[float, float]
    parameters: np.ndarray
    covariance: np.ndarray
    cost: np.ndarray
    variance: np.ndarray
    dof: np.ndarray
    starts: np.ndarray
    flags: np.ndarray
    span: np.ndarray

    @property
    def standard_errors(self) -> np.ndarray:
        """(n, k) of the parameters; NaN for those on a bound or held, which have none."""
        variance = np.diagonal(self.covariance, axis1=1, axis2=2)
        return np.sqrt(np.where(variance > 0, variance, np.nan))

    def flag_names(self) -> list[str]:
        """The flags of each series in words."""
        return [flag_names(int(bits)) for bits in self.flags]


def fit_curves(
    t: np.ndarray,
    y: np.ndarray,
    w: np.ndarray | None = None,
    config: FitConfig | None = None,
    window: tuple[float, float] = (1.0, 366.0),
) -> Fits:
    """Fit a season curve to each of n series by weighted least squares within bounds.

    Args:
        t: Days, (m,) shared or (n, m), ascending in each series.
        y: NDVI, (n, m); NaN where there was no visit.
        w: Weights ≥ 0, as `y`: the error variance of a visit is σ²/w, with σ² estimated. 1 where not given.
        config: Curve, robust loss, bounds and threads.
        window: First and last day of the season, between which dates are sought.

    Raises:
        ValueError: Shapes do not fit, or weights are negative.
    """
    config = config or FitConfig()
    t, y, w = _checked(t, y, w)
    form = curve(config.curve)
    lo, hi = bounds(form, config, window)
    n, k = len(y), len(form.parameters)
    p, covariance, facts = np.empty((n, k)), np.empty((n, k, k)), np.empty((n, 4))
    flags = np.empty(n, dtype=np.int64)

    def work(part: slice) -> None:
        from matryo.phenology.fit.kernels import fit_block

        times = t[part] if len(t) == n else np.broadcast_to(t, y[part].shape)
        fit_block(
            form.code,
            LOSSES.index(config.robust),
            np.ascontiguousarray(times),
            y[part],
            w[part],
            lo,
            hi,
            config.fit_steps,
            p[part],
            covariance[part],
            facts[part],
            flags[part],
        )

    run_blocks(work, n, config.threads)
    used = w > 0
    times = np.broadcast_to(t, y.shape)
    span = np.stack(
        [np.where(used, times, np.inf).min(axis=1, initial=np.inf),
         np.where(used, times, -np.inf).max(axis=1, initial=-np.inf)], axis=1,
    )  # fmt: skip
    return Fits(
        form, window, p, covariance, facts[:, 0], facts[:, 1], facts[:, 2], facts[:, 3].astype(int), flags, span
    )


def bounds(form: Curve, config: FitConfig, window: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value of every parameter; a held one has its start value, 1, for both."""
    if not window[1] - window[0] >= 30:
        raise ValueError(f"window is {window}; expected at least 30 days, such as (1, 366)")
    lo, hi = [], []
    for name, bound in form.bounds.items():
        low, high = window if bound[0] == "window" else bound
        if name in form.held:
            low = high = 1.0
        elif name in ("rsp", "rau"):
            high = config.rate_max
        elif name in ("base", "b1"):
            low = config.base_min
        lo.append(float(low))
        hi.append(float(high))
    return np.array(lo), np.array(hi)


def _checked(t: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y = np.array(y, dtype=np.float64, order="C")
    t = np.atleast_2d(np.asarray(t, dtype=np.float64))
    if y.ndim != 2 or t.shape[1] != y.shape[1] or len(t) not in (1, len(y)):
        raise ValueError(f"times {t.shape} and values {y.shape}; expected (m,) or (n, m), and (n, m)")
    w = np.ones(y.shape) if w is None else np.array(np.broadcast_to(w, y.shape), dtype=np.float64, order="C")
    if (w < 0).any():
        raise ValueError(f"a weight is {w.min():g}; expected 0 or more")
    missing = ~np.isfinite(y) | ~np.isfinite(w) | ~np.isfinite(np.broadcast_to(t, y.shape))
    w[missing], y[missing] = 0.0, 0.0
    real = np.where(w > 0, np.broadcast_to(t, y.shape), np.nan)
    latest = np.fmax.accumulate(real, axis=1)[:, :-1]
    if (real[:, 1:] < latest).any():
        row = int(np.flatnonzero((real[:, 1:] < latest).any(axis=1))[0])
        raise ValueError(f"the times of series {row} go backwards; expected ascending days, sort them")
    return np.where(np.isfinite(t), t, 0.0), y, w  # padding: its weight is 0, its value must only be finite
