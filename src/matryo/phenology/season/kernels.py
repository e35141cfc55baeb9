"""All metrics of one fitted curve and their gradients in its parameters, compiled."""

import numpy as np
from numba import njit

from matryo.phenology.curves.forms import GAUSSIAN
from matryo.phenology.curves.jets import jet
from matryo.phenology.curves.kernels import MATH, value, value_and_gradient
from matryo.phenology.season.definitions import (
    AMPLITUDE,
    DER,
    DOWNTURN,
    EOS,
    GU,
    INTEGRAL,
    KL,
    LOS,
    MATURITY,
    PEAK,
    POS,
    SENESCENCE,
    SOS,
    STABILISATION,
    THRESHOLDS,
    TRS,
)
from matryo.phenology.season.roots import BEND, LEVEL, STEEPEST, TOP, base_of, date_gradient, root_near

PANELS = 64
"""Simpson panels of the season's area: its error is below 1e-6 of it for rates up to 0.5/day."""


@njit(cache=True, fastmath=MATH, nogil=True)
def metrics_of(kind, p, lo, hi, values, G) -> None:
    """Write every metric of f(·; p) in the window [lo, hi] to `values`, and its gradient to `G` (metrics, parameters).

    What does not exist, such as a start of season at the window's edge, is NaN.
    """
    values[:] = np.nan
    G[:] = np.nan
    days = int(hi - lo) + 1
    F = np.empty(days)
    for i in range(days):
        F[i] = value(kind, p, lo + i)
    k = int(np.argmax(F))
    g, q = np.empty(p.size), np.empty(p.size)
    top = root_near(TOP, kind, p, lo + k, 0, 0.0, 0.0, lo, hi) if 0 < k < days - 1 else np.nan
    if np.isnan(top):
        return  # highest at the window's edge: there is no season in it
    values[POS] = top
    if kind == GAUSSIAN:  # a parameter; its second derivative may vanish there
        values[POS], G[POS] = p[2], 0.0
        G[POS, 2] = 1.0
    else:
        date_gradient(TOP, kind, p, top, 0, 0.0, top, lo, hi, q, G[POS])
    values[PEAK] = value_and_gradient(kind, p, top, G[PEAK])
    base = base_of(kind, p, 0, lo, hi)
    values[AMPLITUDE] = values[PEAK] - base
    base_gradient(kind, p, 0, lo, hi, q, g)
    G[AMPLITUDE] = G[PEAK] - g
    _side(kind, p, 0, k, F, lo, hi, top, values, G, q, g)
    _side(kind, p, 1, k, F, lo, hi, top, values, G, q, g)
    for d in range(KL + 1):
        values[LOS + d] = values[EOS + d] - values[SOS + d]
        G[LOS + d] = G[EOS + d] - G[SOS + d]
    _area(kind, p, values, G, base, lo, hi, q, g)


@njit(cache=True, fastmath=MATH, nogil=True)
def base_gradient(kind, p, side, lo, hi, q, out) -> None:
    """Write the gradient of a baseline, which is linear in the parameters that matter."""
    q[:] = p
    for j in range(p.size):
        d = 1e-4 * max(abs(p[j]), 1e-2)
        q[j] = p[j] + d
        up = base_of(kind, q, side, lo, hi)
        q[j] = p[j] - d
        out[j] = (up - base_of(kind, q, side, lo, hi)) / (2.0 * d)
        q[j] = p[j]


@njit(cache=True, fastmath=MATH, nogil=True)
def _side(kind, p, side, k, F, lo, hi, top, values, G, q, g) -> None:
    """Dates of one limb: side 0 rises from the window's start to the peak at day index k, side 1 falls to its end."""
    first = SOS if side == 0 else EOS
    a, b = (0, k) if side == 0 else (k, F.size - 1)
    base = base_of(kind, p, side, lo, hi)
    sign = 1.0 if side == 0 else -1.0
    for i in range(len(THRESHOLDS)):
        level = base + THRESHOLDS[i] * (values[PEAK] - base)
        j = k
        while a < j < b or j == k:
            if F[j] < level or j + (-1 if side == 0 else 1) < 0 or j + (-1 if side == 0 else 1) >= F.size:
                break
            j += -1 if side == 0 else 1
        if F[j] < level:
            _date(LEVEL, kind, p, lo + j, side, THRESHOLDS[i], top, lo, hi, values, G, first + TRS + i, q)
    steep, at = 0.0, -1
    for i in range(a, b):
        if sign * (F[i + 1] - F[i]) > steep:
            steep, at = sign * (F[i + 1] - F[i]), i
    if at < 0:
        return
    _date(STEEPEST, kind, p, lo + at + 0.5, side, 0.0, top, lo, hi, values, G, first + DER, q)
    t = values[first + DER]
    if np.isnan(t):
        return
    _tangent(kind, p, t, base, side, lo, hi, values, G, first + GU, q, g)
    _tangent(kind, p, t, np.nan, side, lo, hi, values, G, STABILISATION if side == 0 else DOWNTURN, q, g)
    middle = min(max(round(t - lo), a), b)
    outer, inner = (a, middle), (middle, b)
    if side == 1:
        outer, inner = inner, outer
    _bend(kind, p, side, sign, outer, F, top, lo, hi, values, G, first + KL, q)
    _bend(kind, p, side, sign, inner, F, top, lo, hi, values, G, MATURITY if side == 0 else SENESCENCE, q)


@njit(cache=True, fastmath=MATH, nogil=True)
def _date(code, kind, p, near, side, share, top, lo, hi, values, G, place, q) -> None:
    t = root_near(code, kind, p, near, side, share, top, lo, hi)
    values[place] = t
    if not np.isnan(t):
        date_gradient(code, kind, p, t, side, share, top, lo, hi, q, G[place])


@njit(cache=True, fastmath=MATH, nogil=True)
def _bend(kind, p, side, sign, part, F, top, lo, hi, values, G, place, q) -> None:
    """Extreme of K' strictly inside a part of the window; f''' finds it on the grid (f' is small: K' ≈ f''')."""
    best, at = 0.0, -1
    for i in range(max(part[0], 2), min(part[1], F.size - 3) + 1):
        third = sign * (F[i + 2] - 2.0 * F[i + 1] + 2.0 * F[i - 1] - F[i - 2])
        if third > best:
            best, at = third, i
    inside = max(part[0], 2) < at < min(part[1], F.size - 3)
    if inside and abs(lo + at - top) > 3.0:  # at its top the asymmetric Gaussian has no such derivatives
        _date(BEND, kind, p, lo + at, side, 0.0, top, lo, hi, values, G, place, q)


@njit(cache=True, fastmath=MATH, nogil=True)
def _tangent(kind, p, t, level, side, lo, hi, values, G, place, q, g) -> None:
    """Where the tangent at the steepest point t meets the baseline, or the peak's height if `level` is NaN.

    x = t − (f(t) − level)/f'(t). Since f''(t) = 0 the result does not change to first order when t moves, so only the
    direct dependence on p counts.
    """
    c = jet(kind, p, t)
    to_peak = np.isnan(level)
    if to_peak:
        level = values[PEAK]
    values[place] = t - (c[0] - level) / c[1]
    if to_peak:
        g[:] = G[PEAK]
    else:
        base_gradient(kind, p, side, lo, hi, q, g)
    q[:] = p
    for j in range(p.size):
        d = 1e-4 * max(abs(p[j]), 1e-2)
        q[j] = p[j] + d
        up = jet(kind, q, t)
        q[j] = p[j] - d
        down = jet(kind, q, t)
        q[j] = p[j]
        rise, bend = (up[0] - down[0]) / (2.0 * d), (up[1] - down[1]) / (2.0 * d)
        G[place, j] = -(rise - g[j]) / c[1] + (c[0] - level) * bend / c[1] ** 2


@njit(cache=True, fastmath=MATH, nogil=True)
def _area(kind, p, values, G, base, lo, hi, q, g) -> None:
    """Area above the left baseline between the 20 % dates, by Simpson's rule; the gradient moves its ends."""
    s, e = values[SOS + TRS], values[EOS + TRS]
    if np.isnan(s) or np.isnan(e):
        return
    h, total = (e - s) / (2 * PANELS), 0.0
    base_gradient(kind, p, 0, lo, hi, q, g)
    q[:] = 0.0
    slot = np.empty(p.size)
    for i in range(2 * PANELS + 1):
        weight = 1.0 if i == 0 or i == 2 * PANELS else (4.0 if i % 2 else 2.0)
        total += weight * (value_and_gradient(kind, p, s + i * h, slot) - base)
        for j in range(p.size):
            q[j] += weight * (slot[j] - g[j])
    values[INTEGRAL] = total * h / 3.0
    at_s, at_e = value(kind, p, s) - base, value(kind, p, e) - base
    for j in range(p.size):
        G[INTEGRAL, j] = q[j] * h / 3.0 + at_e * G[EOS + TRS, j] - at_s * G[SOS + TRS, j]


@njit(cache=True, fastmath=MATH, nogil=True)
def measure_block(kind, p, covariance, lo, hi, values, errors) -> None:
    """Metrics of every series of a block, and their standard errors √(gᵀ·C·g) (delta method)."""
    n_metrics, n = values.shape[1], p.shape[1]
    G = np.empty((n_metrics, n))
    for i in range(p.shape[0]):
        if np.isnan(p[i, 0]):
            values[i] = np.nan
            errors[i] = np.nan
            continue
        metrics_of(kind, p[i], lo, hi, values[i], G)
        for m in range(n_metrics):
            variance = 0.0
            for a in range(n):
                for b in range(n):
                    variance += G[m, a] * covariance[i, a, b] * G[m, b]
            errors[i, m] = np.sqrt(variance) if variance >= 0.0 else np.nan
