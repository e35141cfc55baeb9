"""Compiled values and parameter gradients of the curves at one time; `forms.CURVES` has the equations."""

import numpy as np
from numba import njit

from matryo.phenology.curves.forms import BECK, CENTRE, ELMORE, GAUSSIAN, GU, SCALE

MATH = {"contract", "reassoc", "nsz"}
"""Liberties the compiler may take: none that assumes there is no NaN, as `fastmath=True` would."""

MOST = 13
"""Parameters of the longest curve."""


@njit(cache=True, fastmath=MATH, nogil=True)
def logistic(x: float) -> float:
    """1 / (1 + exp(−x)); exp overflows to inf, which gives the right 0."""
    return 1.0 / (1.0 + np.exp(-x))


@njit(cache=True, fastmath=MATH, nogil=True)
def value(kind: int, p, t: float) -> float:
    """f(t; p)."""
    if kind == BECK:
        return p[0] + p[1] * (logistic(p[3] * (t - p[2])) + logistic(-p[5] * (t - p[4])) - 1.0)
    if kind == ELMORE:
        top = p[1] - p[6] * t
        return p[0] + top * (logistic(p[3] * (t - p[2])) + logistic(-p[5] * (t - p[4])) - 1.0)
    if kind == GU:
        rise, fall = logistic(p[4] * (t - p[3])), logistic(p[6] * (t - p[5]))
        return p[0] + p[1] * rise ** p[7] - p[2] * fall ** p[8]
    if kind == GAUSSIAN:
        u = (t - p[2]) * p[5] if t > p[2] else (p[2] - t) * p[3]
        shape = p[6] if t > p[2] else p[4]
        return p[0] + p[1] * np.exp(-(u**shape))
    x = (t - CENTRE) / SCALE
    rise = (1.0 + p[9] * np.exp(-p[6] * (t - p[5]))) ** -p[11]
    fall = (1.0 + p[10] * np.exp(-p[8] * (t - p[7]))) ** -p[12]
    return p[0] * x + p[1] + (p[2] * x * x + p[3] * x + p[4]) * (rise - fall)


@njit(cache=True, fastmath=MATH, nogil=True)
def value_and_gradient(kind: int, p, t: float, g) -> float:
    """f(t; p), with ∂f/∂p written to `g`."""
    if kind in (BECK, ELMORE):
        rise, fall = logistic(p[3] * (t - p[2])), logistic(-p[5] * (t - p[4]))
        bump = rise + fall - 1.0
        top = p[1] - p[6] * t if kind == ELMORE else p[1]
        d_rise, d_fall = top * rise * (1.0 - rise), top * fall * (1.0 - fall)
        g[0], g[1] = 1.0, bump
        g[2], g[3] = -p[3] * d_rise, (t - p[2]) * d_rise
        g[4], g[5] = p[5] * d_fall, -(t - p[4]) * d_fall
        if kind == ELMORE:
            g[6] = -t * bump
        return p[0] + top * bump
    if kind == GU:
        return _gu(p, t, g)
    if kind == GAUSSIAN:
        return _gaussian(p, t, g)
    return _klosterman(p, t, g)


@njit(cache=True, fastmath=MATH, nogil=True)
def _limb(x: float, c: float):
    """A limb s = (1/(1 + exp(−x)))^c with ∂s/∂x and ∂s/∂c; x is kept from where ln would be −inf."""
    x = min(max(x, -600.0), 600.0)
    log = -np.log1p(np.exp(-x))
    s = np.exp(c * log)
    return s, s * c * (1.0 - logistic(x)), s * log


@njit(cache=True, fastmath=MATH, nogil=True)
def _gu(p, t: float, g) -> float:
    rise, rise_x, rise_c = _limb(p[4] * (t - p[3]), p[7])
    fall, fall_x, fall_c = _limb(p[6] * (t - p[5]), p[8])
    g[0], g[1], g[2] = 1.0, rise, -fall
    g[3], g[4] = -p[1] * rise_x * p[4], p[1] * rise_x * (t - p[3])
    g[5], g[6] = p[2] * fall_x * p[6], -p[2] * fall_x * (t - p[5])
    g[7], g[8] = p[1] * rise_c, -p[2] * fall_c
    return p[0] + p[1] * rise - p[2] * fall


@njit(cache=True, fastmath=MATH, nogil=True)
def _klosterman(p, t: float, g) -> float:
    x = (t - CENTRE) / SCALE
    rise, rise_x, rise_v = _limb(p[6] * (t - p[5]) - np.log(p[9]), p[11])
    fall, fall_x, fall_v = _limb(p[8] * (t - p[7]) - np.log(p[10]), p[12])
    top, bump = p[2] * x * x + p[3] * x + p[4], rise - fall
    g[0], g[1] = x, 1.0
    g[2], g[3], g[4] = x * x * bump, x * bump, bump
    g[5], g[6] = -top * rise_x * p[6], top * rise_x * (t - p[5])
    g[7], g[8] = top * fall_x * p[8], -top * fall_x * (t - p[7])
    g[9], g[10] = -top * rise_x / p[9], top * fall_x / p[10]
    g[11], g[12] = top * rise_v, -top * fall_v
    return p[0] * x + p[1] + top * bump


@njit(cache=True, fastmath=MATH, nogil=True)
def _gaussian(p, t: float, g) -> float:
    late = t > p[2]
    rate, shape = (p[5], p[6]) if late else (p[3], p[4])
    distance = abs(t - p[2])
    u = distance * rate
    power = u**shape
    bell = np.exp(-power)
    slope = -p[1] * bell * shape * u ** (shape - 1.0)  # ∂f/∂u
    for j in range(3, 7):
        g[j] = 0.0
    g[0], g[1] = 1.0, bell
    g[2] = -slope * rate if late else slope * rate
    first = 5 if late else 3
    g[first] = slope * distance
    g[first + 1] = -p[1] * bell * power * np.log(u) if u > 0.0 else 0.0
    return p[0] + p[1] * bell


@njit(cache=True, fastmath=MATH, nogil=True)
def values(kind: int, p, t, out) -> None:
    """Write f of every series at every time: p (n, parameters), t (n, m), out (n, m)."""
    for i in range(t.shape[0]):
        for k in range(t.shape[1]):
            out[i, k] = value(kind, p[i], t[i, k])


@njit(cache=True, fastmath=MATH, nogil=True)
def gradients(kind: int, p, t, out) -> None:
    """∂f/∂p of every series at every time: out (n, m, parameters)."""
    for i in range(t.shape[0]):
        for k in range(t.shape[1]):
            value_and_gradient(kind, p[i], t[i, k], out[i, k])
