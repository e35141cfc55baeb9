"""Levenberg–Marquardt within bounds, for one series, compiled.

With residuals r = y − f(t; p), weights w and J = ∂f/∂p: minimise Σ w·r² over lo ≤ p ≤ hi. A step solves
(H + λ·diag H)·δ = g with H = JᵀWJ, g = JᵀWr over the free parameters, and is clipped to the bounds. A parameter on a
bound is free only if g points inside (projected gradient, Kelley 1999 chapter 5); λ is Marquardt's (1963).
"""

import numpy as np
from numba import njit

from matryo.phenology.curves.forms import BECK
from matryo.phenology.curves.kernels import MATH, value_and_gradient
from matryo.phenology.fit.solve import factor, solve

TOLERANCE = 1e-8
"""Relative decrease of the cost of an accepted step below which a descent has arrived: a step of 1e-4 standard errors.

Once is enough for a step that was hardly damped; a damped one may be short for that reason, and has to be so twice.
"""

UNDAMPED = 1e-3

DAMPING, STUCK = 1e-2, 1e10
"""λ at the start, and λ at which no step goes down any more: a minimum to rounding error."""


@njit(cache=True, fastmath=MATH, nogil=True)
def normal_equations(kind, p, t, y, w, H, g, work) -> float:
    """Cost Σ w·r² at p, with H = JᵀWJ and g = JᵀWr; what a visit of weight 0 holds must be finite and has no effect.

    `work` (parameters + 2, visits) is room: Jᵀ row by row, so that the sums over visits run in the processor's vectors.
    """
    n, m = p.size, t.size
    residual, weighted = work[n], work[n + 1]
    cost = beck_rows(p, t, y, w, work, residual) if kind == BECK else rows_of(kind, p, t, y, w, work, residual)
    for i in range(n):
        row, s = work[i], 0.0
        for k in range(m):
            weighted[k] = w[k] * row[k]
            s += row[k] * residual[k]
        g[i] = s
        for j in range(i + 1):
            other, s = work[j], 0.0
            for k in range(m):
                s += weighted[k] * other[k]
            H[i, j] = s
            H[j, i] = s
    return cost


@njit(cache=True, fastmath=MATH, nogil=True)
def rows_of(kind, p, t, y, w, rows, residual) -> float:
    """Write Jᵀ to the first rows and w·r to `residual`, for any curve; gives the cost."""
    cost, gradient = 0.0, np.empty(p.size)
    for k in range(t.size):
        r = y[k] - value_and_gradient(kind, p, t[k], gradient)
        cost += w[k] * r * r
        residual[k] = w[k] * r
        for i in range(p.size):
            rows[i, k] = gradient[i]
    return cost


@njit(cache=True, fastmath=MATH, nogil=True)
def beck_rows(p, t, y, w, rows, residual) -> float:
    """What `rows_of` writes for Beck's curve, four times as fast: without calls the loop runs in vectors too."""
    base, amplitude, sos, rsp, eos, rau = p[0], p[1], p[2], p[3], p[4], p[5]
    one, bump_row, sos_row, rsp_row, eos_row, rau_row = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5]
    cost = 0.0
    for k in range(t.size):
        rise = 1.0 / (1.0 + np.exp(-rsp * (t[k] - sos)))
        fall = 1.0 / (1.0 + np.exp(rau * (t[k] - eos)))
        bump = rise + fall - 1.0
        d_rise, d_fall = amplitude * rise * (1.0 - rise), amplitude * fall * (1.0 - fall)
        one[k], bump_row[k] = 1.0, bump
        sos_row[k], rsp_row[k] = -rsp * d_rise, (t[k] - sos) * d_rise
        eos_row[k], rau_row[k] = rau * d_fall, -(t[k] - eos) * d_fall
        r = y[k] - base - amplitude * bump
        cost += w[k] * r * r
        residual[k] = w[k] * r
    return cost


@njit(cache=True, fastmath=MATH, nogil=True)
def free_parameters(p, g, lo, hi, free) -> int:
    """Write which parameters may move along g to `free`, and give their number."""
    count = 0
    for j in range(p.size):
        pinned = (p[j] <= lo[j] and g[j] <= 0.0) or (p[j] >= hi[j] and g[j] >= 0.0)
        if lo[j] < hi[j] and not pinned:
            free[count] = j
            count += 1
    return count


@njit(cache=True, fastmath=MATH, nogil=True)
def descend(kind, p, t, y, w, lo, hi, steps: int):
    """Move p to a minimum; gives (cost, whether it arrived)."""
    n = p.size
    H, H_new, L = np.empty((n, n)), np.empty((n, n)), np.empty((n, n))
    g, g_new, p_new, work = np.empty(n), np.empty(n), np.empty(n), np.empty((n + 2, t.size))
    delta, scale, free = np.empty(n), np.empty(n), np.empty(n, np.int64)
    for j in range(n):
        p[j] = min(max(p[j], lo[j]), hi[j])
    cost = normal_equations(kind, p, t, y, w, H, g, work)
    damping, small = DAMPING, 0
    for _ in range(steps):
        n_free = free_parameters(p, g, lo, hi, free)
        if n_free == 0 or cost == 0.0:
            return cost, True
        if factor(H, damping, free, n_free, L, scale) <= 0.0:
            damping *= 10.0
            if damping > STUCK:
                return cost, True
            continue
        for a in range(n_free):
            delta[a] = g[free[a]] * scale[a]
        solve(L, n_free, delta)
        p_new[:] = p
        for a in range(n_free):
            j = free[a]
            p_new[j] = min(max(p[j] + delta[a] * scale[a], lo[j]), hi[j])
        cost_new = normal_equations(kind, p_new, t, y, w, H_new, g_new, work)
        if cost_new < cost:
            small = small + 1 if cost - cost_new <= TOLERANCE * cost else 0
            arrived = small == 2 or (small == 1 and damping < UNDAMPED)
            cost, damping = cost_new, max(0.1 * damping, 1e-12)
            p[:] = p_new
            H, H_new, g, g_new = H_new, H, g_new, g
            if arrived:
                return cost, True
        else:
            if cost_new - cost <= 1e-14 * cost:
                return cost, True  # the step is below rounding error
            damping *= 4.0
            if damping > STUCK:
                return cost, True
    return cost, False
