"""Levenberg–Marquardt within bounds, for one series, compiled.

With residuals r = y − f(t; p), weights w and J = ∂f/∂p: minimise Σ w·r² over lo ≤ p ≤ hi. A step solves
(H + λ·diag H)·δ = g with H = JᵀWJ, g = JᵀWr over the free parameters, and is clipped to the bounds. A parameter on a
bound is free only if g points inside (projected gradient, Kelley 1999 chapter 5); λ is Marquardt's (1963).
"""

import numpy as np
from numba import njit

from matryo.phenology.curves.kernels import MATH, value_and_gradient
from matryo.phenology.fit.solve import factor, solve

TOLERANCE = 1e-10
"""Relative decrease of the cost of an accepted step below which a descent has arrived (twice in a row)."""

DAMPING, STUCK = 1e-2, 1e10
"""λ at the start, and λ at which no step goes down any more: a minimum to rounding error."""


@njit(cache=True, fastmath=MATH, nogil=True)
def normal_equations(kind, p, t, y, w, H, g, gradient) -> float:
    """Cost Σ w·r² at p, with H = JᵀWJ and g = JᵀWr; visits of weight 0 are passed over, whatever they hold."""
    n, cost = p.size, 0.0
    H[:] = 0.0
    g[:] = 0.0
    for k in range(t.size):
        if w[k] > 0.0:
            r = y[k] - value_and_gradient(kind, p, t[k], gradient)
            cost += w[k] * r * r
            for i in range(n):
                s = w[k] * gradient[i]
                g[i] += s * r
                for j in range(i + 1):
                    H[i, j] += s * gradient[j]
    for i in range(n):
        for j in range(i):
            H[j, i] = H[i, j]
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
    g, g_new, gradient, p_new = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    delta, scale, free = np.empty(n), np.empty(n), np.empty(n, np.int64)
    for j in range(n):
        p[j] = min(max(p[j], lo[j]), hi[j])
    cost = normal_equations(kind, p, t, y, w, H, g, gradient)
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
        cost_new = normal_equations(kind, p_new, t, y, w, H_new, g_new, gradient)
        if cost_new < cost:
            small = small + 1 if cost - cost_new <= TOLERANCE * cost else 0
            cost, damping = cost_new, max(0.3 * damping, 1e-12)
            p[:] = p_new
            H, H_new, g, g_new = H_new, H, g_new, g
            if small == 2:
                return cost, True
        else:
            if cost_new - cost <= 1e-14 * cost:
                return cost, True  # the step is below rounding error
            damping *= 4.0
            if damping > STUCK:
                return cost, True
    return cost, False
