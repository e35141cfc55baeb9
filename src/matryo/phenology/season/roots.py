"""Where a fitted curve has its dates, compiled: each date is the root of an equation g(t; p) = 0.

A date's gradient follows from the equation, ∂t/∂p = −(∂g/∂p)/(∂g/∂t) (implicit function theorem), so nothing is fitted
or searched again to get it.
"""

import numpy as np
from numba import njit

from matryo.phenology.curves.forms import GU as GU_CURVE
from matryo.phenology.curves.forms import KLOSTERMAN
from matryo.phenology.curves.jets import curvature, jet
from matryo.phenology.curves.kernels import MATH, value

TOP, STEEPEST, LEVEL, BEND = range(4)
"""Equations: f' = 0; f'' = 0; f = base + share·(peak − base); K'' = 0, where the rate of change of curvature is
extreme."""

CLOSE = 1e-7
"""Days to which a root is found."""


@njit(cache=True, fastmath=MATH, nogil=True)
def base_of(kind: int, p, side: int, lo: float, hi: float) -> float:
    """Baseline before (side 0) or after the season: the limit of f; for Klosterman, which has none, f at the edge."""
    if kind == KLOSTERMAN:
        return value(kind, p, lo if side == 0 else hi)
    if kind == GU_CURVE and side == 1:
        return p[0] + p[1] - p[2]
    return p[0]


@njit(cache=True, fastmath=MATH, nogil=True)
def equation(code: int, kind: int, p, t: float, side: int, share: float, top: float, lo: float, hi: float) -> float:
    """g(t; p) of a date; `top` is the peak's time, at which f is flat, so it may stand still when p varies."""
    if code == LEVEL:
        base = base_of(kind, p, side, lo, hi)
        return value(kind, p, t) - base - share * (value(kind, p, top) - base)
    c = jet(kind, p, t)
    if code == TOP:
        return c[1]
    if code == STEEPEST:
        return 2.0 * c[2]
    return curvature(c)[2]


@njit(cache=True, fastmath=MATH, nogil=True)
def find_root(code, kind, p, a, b, side, share, top, lo, hi) -> float:
    """Root of g in [a, b] by bisection and false position (Illinois); NaN where g has one sign at both ends."""
    ga = equation(code, kind, p, a, side, share, top, lo, hi)
    gb = equation(code, kind, p, b, side, share, top, lo, hi)
    if ga == 0.0:
        return a
    if gb == 0.0:
        return b
    if not ga * gb < 0.0:
        return np.nan
    kept = 0
    for _ in range(60):
        x = (a * gb - b * ga) / (gb - ga)
        gx = equation(code, kind, p, x, side, share, top, lo, hi)
        if gx * gb < 0.0:
            a, ga, kept = b, gb, 0
        else:
            ga, kept = ga * 0.5, kept + 1
        moved = abs(x - b)
        b, gb = x, gx
        if gx == 0.0 or moved < CLOSE or abs(b - a) < CLOSE:
            return b
    return b


@njit(cache=True, fastmath=MATH, nogil=True)
def root_near(code, kind, p, t, side, share, top, lo, hi) -> float:
    """Root of g next to t, which a day's grid found; NaN if there is none within four days, or outside the window."""
    for reach in (1.0, 2.0, 4.0):
        found = find_root(code, kind, p, t - reach, t + reach, side, share, top, lo, hi)
        if not np.isnan(found):
            return found if lo < found < hi else np.nan
    return np.nan


@njit(cache=True, fastmath=MATH, nogil=True)
def date_gradient(code, kind, p, t, side, share, top, lo, hi, q, out) -> None:
    """Write ∂t/∂p at the root t, by central differences of g; `q` is room for one parameter vector."""
    h = 1e-3
    slope = equation(code, kind, p, t + h, side, share, top, lo, hi)
    slope = (slope - equation(code, kind, p, t - h, side, share, top, lo, hi)) / (2.0 * h)
    q[:] = p
    for j in range(p.size):
        d = 1e-4 * max(abs(p[j]), 1e-2)
        q[j] = p[j] + d
        up = equation(code, kind, q, t, side, share, top, lo, hi)
        q[j] = p[j] - d
        down = equation(code, kind, q, t, side, share, top, lo, hi)
        q[j] = p[j]
        out[j] = -(up - down) / (2.0 * d * slope)
