"""One series' whole fit, compiled: descent, robust weights, flags, restarts of a flagged fit, covariance."""

import numpy as np
from numba import njit

from matryo.phenology.curves.kernels import MATH, value
from matryo.phenology.fit.descent import descend, free_parameters, normal_equations
from matryo.phenology.fit.flags import (
    AT_BOUND,
    NOT_CONVERGED,
    PEAK_OUTSIDE,
    RANK_DEFICIENT,
    SEVERAL_SEASONS,
    TOO_FEW,
)
from matryo.phenology.fit.solve import invert
from matryo.phenology.fit.starts import KEPT, from_beck, grid_starts, read_start

LEAST_SQUARES, HUBER, BISQUARE = range(3)
HUBER_AT, BISQUARE_AT = 1.345, 4.685
"""Turning points in standard deviations: 95 % efficiency on normal errors (Holland and Welsch 1977)."""

ROUNDS = 10
"""Reweightings of a robust fit, at most."""

PEAK_STEP = 4.0
"""Days between the points at which a curve is looked at for its peak: the steepest limb takes nine days to rise."""

DIP = 0.25
"""A dip between two tops counts as another season when it is deeper than this share of the range of the visits."""


@njit(cache=True, fastmath=MATH, nogil=True)
def count_tops(t, y, w) -> int:
    """Tops separated by dips of more than DIP of the range, in the running median of three visits."""
    used = np.flatnonzero(w > 0.0)
    n = used.size
    if n < 5:
        return 1
    s = np.empty(n)
    for i in range(n):
        a, b, c = y[used[max(i - 1, 0)]], y[used[i]], y[used[min(i + 1, n - 1)]]
        s[i] = max(min(a, b), min(max(a, b), c))
    depth = DIP * (s.max() - s.min())
    tops, rising, extreme = 0, True, s[0]
    for i in range(n):
        if rising:
            extreme = max(extreme, s[i])
            if s[i] < extreme - depth:
                tops, rising, extreme = tops + 1, False, s[i]
        else:
            extreme = min(extreme, s[i])
            if s[i] > extreme + depth:
                rising, extreme = True, s[i]
    return tops + 1 if rising else tops


@njit(cache=True, fastmath=MATH, nogil=True)
def peak_is_outside(kind, p, t, w, window_lo, window_hi) -> bool:
    """Whether the curve is higher somewhere in the window than anywhere between first and last visit, by a grid."""
    first, last = 0, t.size - 1
    while w[first] <= 0.0:
        first += 1
    while w[last] <= 0.0:
        last -= 1
    inside = max(value(kind, p, t[first]), value(kind, p, t[last]))
    outside = max(value(kind, p, t[first] - 0.5), value(kind, p, t[last] + 0.5))  # still rising at the edge
    for k in range(int((window_hi - window_lo) / PEAK_STEP) + 1):
        day = window_lo + k * PEAK_STEP
        f = value(kind, p, day)
        if t[first] <= day <= t[last]:
            inside = max(inside, f)
        else:
            outside = max(outside, f)
    return outside > inside


@njit(cache=True, fastmath=MATH, nogil=True)
def robust_weights(kind, loss, p, t, y, w, n_free, v) -> float:
    """Write w·ψ(u)/u to v, u = √w·r/s with s from the median of |√w·r|; gives s, 0 where there is no scatter."""
    used = np.flatnonzero(w > 0.0)
    u = np.empty(used.size)
    for i in range(used.size):
        k = used[i]
        u[i] = abs(y[k] - value(kind, p, t[k])) * np.sqrt(w[k])
    largest = np.sort(u)[n_free - 1 :]  # of n residuals about n_free are fitted away (as MASS::rlm's and statsmodels')
    s = 1.4826 * np.median(largest)
    v[:] = 0.0
    for i in range(used.size):
        x = u[i] / s if s > 1e-9 else 0.0
        if loss == HUBER:
            factor = 1.0 if x <= HUBER_AT else HUBER_AT / x
        else:
            factor = (1.0 - (x / BISQUARE_AT) ** 2) ** 2 if x < BISQUARE_AT else 0.0
        v[used[i]] = w[used[i]] * factor
    return s


@njit(cache=True, fastmath=MATH, nogil=True)
def descend_robustly(kind, loss, p, t, y, w, lo, hi, steps, n_free, v):
    """Descend; with a robust loss, reweight from Huber's on and descend again until the dates stand still."""
    v[:] = w
    cost, arrived = descend(kind, p, t, y, v, lo, hi, steps)
    if loss == LEAST_SQUARES:
        return cost, arrived
    before = np.empty(p.size)
    for r in range(ROUNDS):
        before[:] = p
        robust_weights(kind, HUBER if r < 3 else loss, p, t, y, w, n_free, v)  # Huber's is convex: it leads bisquare in
        cost, arrived = descend(kind, p, t, y, v, lo, hi, steps)
        moved = 0.0
        for j in range(p.size):
            moved = max(moved, abs(p[j] - before[j]) / max(hi[j] - lo[j], 1e-12))
        if r >= 3 and moved < 1e-5:
            break
    return cost, arrived


@njit(cache=True, fastmath=MATH, nogil=True)
def bits_of(kind, p, t, w, lo, hi, arrived) -> int:
    """Flags that a solution shows."""
    bits = 0 if arrived else NOT_CONVERGED
    for j in range(p.size):
        near = 1e-6 * (hi[j] - lo[j])
        if lo[j] < hi[j] and (p[j] - lo[j] <= near or hi[j] - p[j] <= near):
            bits |= AT_BOUND
    date_lo, date_hi = np.inf, -np.inf
    for j in range(p.size):
        if hi[j] - lo[j] > 30.0:  # dates are the only parameters with a range of days
            date_lo, date_hi = min(date_lo, lo[j]), max(date_hi, hi[j])
    if peak_is_outside(kind, p, t, w, date_lo, date_hi):
        bits |= PEAK_OUTSIDE
    return bits


@njit(cache=True, fastmath=MATH, nogil=True)
def fit_one(kind, loss, t, y, w, lo, hi, steps, p, covariance, facts) -> int:
    """Fit one series: p and its covariance are written, facts = (cost, σ², degrees of freedom, starts); gives flags."""
    n, used, n_free = p.size, 0, 0
    for k in range(t.size):
        used += w[k] > 0.0
    for j in range(n):
        n_free += lo[j] < hi[j]
    if used <= n_free:
        p[:], facts[:], covariance[:] = np.nan, np.nan, np.nan
        facts[2], facts[3] = 0.0, 0.0
        return TOO_FEW
    b, v, H, g = np.empty(6), np.empty(t.size), np.empty((n, n)), np.empty(n)
    L, scale, x, free = np.empty((n, n)), np.empty(n), np.empty(n), np.empty(n, np.int64)
    work = np.empty((n + 2, t.size))
    read_start(t, y, w, b)
    from_beck(kind, b, p)
    cost, arrived = descend_robustly(kind, loss, p, t, y, w, lo, hi, steps, n_free, v)
    bits = bits_of(kind, p, t, w, lo, hi, arrived)
    tops = SEVERAL_SEASONS if count_tops(t, y, w) > 1 else 0
    normal_equations(kind, p, t, y, v, H, g, work)
    inverted = invert(H, free, free_parameters(p, g, lo, hi, free), L, scale, x, covariance)
    facts[3] = 1.0
    if bits or tops or not inverted:
        starts, q, v_new = np.empty((KEPT, 6)), np.empty(n), np.empty(t.size)
        count = grid_starts(t, y, w, starts)
        facts[3] += count
        for i in range(count):
            from_beck(kind, starts[i], q)
            cost_new, arrived_new = descend_robustly(kind, loss, q, t, y, w, lo, hi, steps, n_free, v_new)
            if cost_new < cost * (1.0 - 1e-9):
                cost, arrived = cost_new, arrived_new
                p[:], v[:] = q, v_new
        bits = bits_of(kind, p, t, w, lo, hi, arrived)
        normal_equations(kind, p, t, y, v, H, g, work)
        inverted = invert(H, free, free_parameters(p, g, lo, hi, free), L, scale, x, covariance)
    facts[0], facts[2] = cost, used - n_free
    facts[1] = error_variance(kind, loss, p, t, y, w, v, n_free, cost)
    if inverted:
        covariance *= facts[1]
    else:
        covariance[:] = np.nan
        bits |= RANK_DEFICIENT
    return bits | tops


@njit(cache=True, fastmath=MATH, nogil=True)
def error_variance(kind, loss, p, t, y, w, v, n_free, cost) -> float:
    """σ² of a visit of weight 1, such that σ²·(JᵀVJ)⁻¹ is the covariance of p.

    Least squares: Σ w·r²/(n − p). Robust: Huber's K²·[Σψ²/(n − p)]/[mean ψ']² for (JᵀWJ)⁻¹ (Huber 1981, 7.6), with JᵀVJ
    ≈ mean(v/w)·JᵀWJ.
    """
    used = np.flatnonzero(w > 0.0)
    n = used.size
    if loss == LEAST_SQUARES:
        return cost / (n - n_free)
    u = np.empty(t.size)
    s = robust_weights(kind, loss, p, t, y, w, n_free, u)
    if not s > 1e-9:
        return 0.0
    at, psi2, slope, share = HUBER_AT if loss == HUBER else BISQUARE_AT, 0.0, 0.0, 0.0
    slopes = np.zeros(n)
    for i in range(n):
        k = used[i]
        x = (y[k] - value(kind, p, t[k])) * np.sqrt(w[k]) / s
        factor = u[k] / w[k]
        psi2 += (factor * x) ** 2
        share += factor / n
        if abs(x) < at:
            slopes[i] = 1.0 if loss == HUBER else (1.0 - (x / at) ** 2) * (1.0 - 5.0 * (x / at) ** 2)
        slope += slopes[i] / n
    if not slope > 0.05:
        return np.nan  # most visits are outliers of the curve: no error can be said
    K = 1.0 + n_free / n * np.mean((slopes - slope) ** 2) / slope**2
    return K * K * s * s * psi2 / (n - n_free) / slope**2 * share


@njit(cache=True, fastmath=MATH, nogil=True)
def fit_block(kind, loss, t, y, w, lo, hi, steps, p, covariance, facts, bits) -> None:
    """Fit every series of a block: t, y, w (n, m), lo, hi (parameters), the rest is written."""
    for i in range(y.shape[0]):
        bits[i] = fit_one(kind, loss, t[i], y[i], w[i], lo, hi, steps, p[i], covariance[i], facts[i])
