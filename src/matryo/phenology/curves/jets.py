"""Derivatives in time, exact to the fourth order, by arithmetic on Taylor coefficients c[n] = f⁽ⁿ⁾(t) / n!.

A jet is a tuple of five numbers, which the compiler keeps in registers; the sums are written out for that.
"""

import numpy as np
from numba import njit

from matryo.phenology.curves.forms import BECK, CENTRE, ELMORE, GAUSSIAN, GU, SCALE
from matryo.phenology.curves.kernels import MATH


@njit(cache=True, fastmath=MATH, nogil=True)
def plus(a, b, factor: float):
    """Sum a + factor·b of two jets."""
    return (
        a[0] + factor * b[0],
        a[1] + factor * b[1],
        a[2] + factor * b[2],
        a[3] + factor * b[3],
        a[4] + factor * b[4],
    )


@njit(cache=True, fastmath=MATH, nogil=True)
def times(a, b):
    """Product of two jets: c[n] = Σ a[k]·b[n − k]."""
    return (
        a[0] * b[0],
        a[0] * b[1] + a[1] * b[0],
        a[0] * b[2] + a[1] * b[1] + a[2] * b[0],
        a[0] * b[3] + a[1] * b[2] + a[2] * b[1] + a[3] * b[0],
        a[0] * b[4] + a[1] * b[3] + a[2] * b[2] + a[3] * b[1] + a[4] * b[0],
    )


@njit(cache=True, fastmath=MATH, nogil=True)
def exponential(a):
    """Exponential of a jet: n·c[n] = Σ k·a[k]·c[n − k], k = 1…n."""
    c0 = np.exp(a[0])
    c1 = a[1] * c0
    c2 = (a[1] * c1 + 2.0 * a[2] * c0) / 2.0
    c3 = (a[1] * c2 + 2.0 * a[2] * c1 + 3.0 * a[3] * c0) / 3.0
    c4 = (a[1] * c3 + 2.0 * a[2] * c2 + 3.0 * a[3] * c1 + 4.0 * a[4] * c0) / 4.0
    return c0, c1, c2, c3, c4


@njit(cache=True, fastmath=MATH, nogil=True)
def power(a, e: float):
    """a^e of a jet with a[0] > 0: n·a[0]·c[n] = Σ (e·k − n + k)·a[k]·c[n − k], k = 1…n."""
    i = 1.0 / a[0]
    c0 = a[0] ** e
    c1 = e * a[1] * c0 * i
    c2 = ((e - 1.0) * a[1] * c1 + 2.0 * e * a[2] * c0) * i / 2.0
    c3 = ((e - 2.0) * a[1] * c2 + (2.0 * e - 1.0) * a[2] * c1 + 3.0 * e * a[3] * c0) * i / 3.0
    c4 = (e - 3.0) * a[1] * c3 + (2.0 * e - 2.0) * a[2] * c2 + (3.0 * e - 1.0) * a[3] * c1 + 4.0 * e * a[4] * c0
    return c0, c1, c2, c3, c4 * i / 4.0


@njit(cache=True, fastmath=MATH, nogil=True)
def _rise(rate: float, date: float, t: float, q: float, exponent: float):
    """Jet of 1/(1 + q·exp(−rate·(t − date)))^exponent; far below the date it is flat zero."""
    x = rate * (t - date)
    if x < -600.0:
        return 0.0, 0.0, 0.0, 0.0, 0.0
    e = q * np.exp(-x)
    r2 = rate * rate
    jet_of_sum = (1.0 + e, -rate * e, r2 * e / 2.0, -rate * r2 * e / 6.0, r2 * r2 * e / 24.0)
    return power(jet_of_sum, -exponent)


@njit(cache=True, fastmath=MATH, nogil=True)
def jet(kind: int, p, t: float):
    """Taylor coefficients of f(·; p) at t."""
    if kind in (BECK, ELMORE):
        bump = plus(_rise(p[3], p[2], t, 1.0, 1.0), _rise(p[5], p[4], t, 1.0, 1.0), -1.0)
        slope = p[6] if kind == ELMORE else 0.0
        c = times((p[1] - slope * t, -slope, 0.0, 0.0, 0.0), bump)
        return c[0] + p[0], c[1], c[2], c[3], c[4]
    nothing = (0.0, 0.0, 0.0, 0.0, 0.0)
    if kind == GU:
        c = plus(nothing, _rise(p[4], p[3], t, 1.0, p[7]), p[1])
        c = plus(c, _rise(p[6], p[5], t, 1.0, p[8]), -p[2])
        return c[0] + p[0], c[1], c[2], c[3], c[4]
    if kind == GAUSSIAN:
        late = t > p[2]
        rate, shape = (p[5], p[6]) if late else (-p[3], p[4])
        u = max((t - p[2]) * rate, 1e-9)  # derivatives of a power do not exist at 0: next to it
        c = exponential(plus(nothing, power((u, rate, 0.0, 0.0, 0.0), shape), -1.0))
        return p[0] + p[1] * c[0], p[1] * c[1], p[1] * c[2], p[1] * c[3], p[1] * c[4]
    x = (t - CENTRE) / SCALE
    top = (p[2] * x * x + p[3] * x + p[4], (2.0 * p[2] * x + p[3]) / SCALE, p[2] / SCALE**2, 0.0, 0.0)
    bump = plus(_rise(p[6], p[5], t, p[9], p[11]), _rise(p[8], p[7], t, p[10], p[12]), -1.0)
    return plus((p[0] * x + p[1], p[0] / SCALE, 0.0, 0.0, 0.0), times(top, bump), 1.0)


@njit(cache=True, fastmath=MATH, nogil=True)
def curvature(c):
    """K = f''/(1 + f'²)^(3/2) with K' and K'', from the jet of f; t in days, f in NDVI."""
    slope = (c[1], 2.0 * c[2], 3.0 * c[3], 4.0 * c[4], 0.0)
    bend = (2.0 * c[2], 6.0 * c[3], 12.0 * c[4], 0.0, 0.0)
    root = times(slope, slope)
    k = times(bend, power((1.0 + root[0], root[1], root[2], root[3], root[4]), -1.5))
    return k[0], k[1], 2.0 * k[2]
