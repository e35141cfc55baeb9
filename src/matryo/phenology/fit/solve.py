"""Small symmetric systems, compiled: Cholesky on the free parameters, scaled to a unit diagonal."""

import numpy as np
from numba import njit

from matryo.phenology.curves.kernels import MATH

PIVOT = 1e-11
"""A scaled pivot below this is zero: the squared sine of a column's angle to those before it, so one angle of 3e-6."""


@njit(cache=True, fastmath=MATH, nogil=True)
def factor(H, damping: float, free, n_free: int, L, scale) -> float:
    """Cholesky factor L of S·H·S + damping·I over the free parameters, S = diag(H)^(−1/2); gives the least pivot."""
    least = np.inf
    for a in range(n_free):
        d = H[free[a], free[a]]
        scale[a] = 1.0 / np.sqrt(d) if d > 0.0 else 1.0
    for a in range(n_free):
        for b in range(a + 1):
            s = H[free[a], free[b]] * scale[a] * scale[b]
            for k in range(b):
                s -= L[a, k] * L[b, k]
            if a == b:
                s += damping
                least = min(least, s)
                if not s > 0.0:
                    return -1.0
                L[a, a] = np.sqrt(s)
            else:
                L[a, b] = s / L[b, b]
    return least


@njit(cache=True, fastmath=MATH, nogil=True)
def solve(L, n_free: int, x) -> None:
    """Solve L·Lᵀ·x = x in place."""
    for a in range(n_free):
        for k in range(a):
            x[a] -= L[a, k] * x[k]
        x[a] /= L[a, a]
    for a in range(n_free - 1, -1, -1):
        for k in range(a + 1, n_free):
            x[a] -= L[k, a] * x[k]
        x[a] /= L[a, a]


@njit(cache=True, fastmath=MATH, nogil=True)
def invert(H, free, n_free: int, L, scale, x, out) -> bool:
    """Write H⁻¹ over the free parameters to `out`, zeros elsewhere; False if H is singular on them."""
    out[:] = 0.0
    if factor(H, 0.0, free, n_free, L, scale) < PIVOT:
        return False
    for b in range(n_free):
        for a in range(n_free):
            x[a] = 1.0 if a == b else 0.0
        solve(L, n_free, x)
        for a in range(n_free):
            out[free[a], free[b]] = x[a] * scale[a] * scale[b]
    return True
