"""Where descents begin, compiled: a Beck shape read off the data, and a grid of them for fits that were flagged."""

import numpy as np
from numba import njit

from matryo.phenology.curves.forms import BECK, ELMORE, GAUSSIAN, GU
from matryo.phenology.curves.kernels import MATH, logistic

DATES, RATES = 20, (0.03, 0.1, 0.3)
"""The grid: dates of each limb over the span of the visits, and rates of each limb in 1/day."""

KEPT = 16
"""Grid starts from which a descent is made."""


@njit(cache=True, fastmath=MATH, nogil=True)
def from_beck(kind: int, b, p) -> None:
    """The curve's parameters that look most like the Beck shape b = (base, amplitude, sos, rsp, eos, rau)."""
    if kind == BECK:
        p[:] = b
    elif kind == ELMORE:
        p[:6] = b
        p[6] = 0.0
    elif kind == GU:
        p[0], p[1], p[2] = b[0], b[1], b[1]
        p[3:7] = b[2:]
        p[7], p[8] = 1.0, 1.0
    elif kind == GAUSSIAN:
        p[0], p[1], p[2] = b[0], b[1], 0.5 * (b[2] + b[4])
        half = max(0.5 * (b[4] - b[2]), 5.0)
        p[4], p[6] = 3.0, 3.0
        p[3] = p[5] = np.log(2.0) ** (1.0 / 3.0) / half  # half the amplitude at sos and eos
    else:
        p[:] = 0.0
        p[1], p[4] = b[0], b[1]
        p[5:9] = b[2:]
        p[9:13] = 1.0


@njit(cache=True, fastmath=MATH, nogil=True)
def read_start(t, y, w, b) -> None:
    """A Beck shape from the data: half-way crossings on both sides of the highest visit; t ascending."""
    seen = np.sort(y[w > 0.0])
    low, high = seen[int(0.1 * (seen.size - 1))], seen[int(0.95 * (seen.size - 1))]
    half, top, first, last = 0.5 * (low + high), -1, -1, -1
    for k in range(t.size):
        if w[k] > 0.0:
            first = k if first < 0 else first
            last = k
            top = k if top < 0 or y[k] > y[top] else top
    b[0], b[1] = low, max(high - low, 0.02)
    b[2], b[4] = t[first], t[last]
    before = top
    for k in range(top - 1, -1, -1):
        if w[k] > 0.0:
            if y[k] < half:
                b[2] = t[k] + (t[before] - t[k]) * (half - y[k]) / max(y[before] - y[k], 1e-9)
                break
            before = k
    before = top
    for k in range(top + 1, t.size):
        if w[k] > 0.0:
            if y[k] < half:
                b[4] = t[before] + (t[k] - t[before]) * (y[before] - half) / max(y[before] - y[k], 1e-9)
                break
            before = k
    b[3] = b[5] = min(max(8.0 / max(b[4] - b[2], 20.0), 0.02), 0.3)


@njit(cache=True, fastmath=MATH, nogil=True)
def _limbs(t, w, used, first: float, span: float):
    """Logistic limbs at every visit, and 1/(1 + exp(−rate·(t − date))) for each date and rate of the grid."""
    limbs = np.empty((DATES * len(RATES), t.size))
    for i in range(DATES):
        for j in range(len(RATES)):
            for k in used:
                limbs[i * len(RATES) + j, k] = logistic(RATES[j] * (t[k] - _grid_date(first, span, i)))
    return limbs


@njit(cache=True, fastmath=MATH, nogil=True)
def _grid_date(first: float, span: float, i: int) -> float:
    return first + span * (i + 0.5) / DATES


@njit(cache=True, fastmath=MATH, nogil=True)
def _base_and_amplitude(rise, fall, y, w, used):
    """Least squares of y on base + amplitude·(rise − fall): (cost, base, amplitude)."""
    sw = sx = sy = sxx = sxy = syy = 0.0
    for k in used:
        x, wk = rise[k] - fall[k], w[k]
        sw += wk
        sx += wk * x
        sy += wk * y[k]
        sxx += wk * x * x
        sxy += wk * x * y[k]
        syy += wk * y[k] * y[k]
    spread = sxx - sx * sx / sw
    amplitude = (sxy - sx * sy / sw) / spread if spread > 1e-12 else 0.0
    return syy - sy * sy / sw - amplitude * amplitude * spread, (sy - amplitude * sx) / sw, amplitude


@njit(cache=True, fastmath=MATH, nogil=True)
def grid_starts(t, y, w, starts) -> int:
    """Write up to KEPT Beck shapes to `starts`: the local minima of the cost over pairs of dates, the lowest first.

    Given dates and rates the shape is linear in base and amplitude, so their least squares is two equations (variable
    projection, Golub and Pereyra 1973); of the pairs of rates at a pair of dates the best counts.
    """
    used, n_rates = np.flatnonzero(w > 0.0), len(RATES)
    first, span = t[used[0]], t[used[-1]] - t[used[0]]
    limbs = _limbs(t, w, used, first, span)
    costs, shapes = np.full((DATES + 1, DATES + 1), np.inf), np.empty((DATES, DATES, 4))
    for i in range(DATES - 1):
        for j in range(i + 1, DATES):
            for a in range(n_rates):
                for b in range(n_rates):
                    found = _base_and_amplitude(limbs[i * n_rates + a], limbs[j * n_rates + b], y, w, used)
                    if found[2] > 0.0 and found[0] < costs[i, j]:
                        costs[i, j] = found[0]
                        shapes[i, j] = np.array((found[1], found[2], RATES[a], RATES[b]))
    count, minima = 0, np.full((DATES, DATES), np.inf)
    for i in range(DATES - 1):
        for j in range(i + 1, DATES):
            around = costs[max(i - 1, 0) : i + 2, j - 1 : j + 2]
            if costs[i, j] < np.inf and costs[i, j] <= around.min():
                minima[i, j] = costs[i, j]
    while count < KEPT:
        place = int(np.argmin(minima))
        i, j = place // DATES, place % DATES
        if minima[i, j] == np.inf:
            break
        minima[i, j] = np.inf
        starts[count, 0], starts[count, 1] = shapes[i, j, 0], shapes[i, j, 1]
        starts[count, 2], starts[count, 3] = _grid_date(first, span, i), shapes[i, j, 2]
        starts[count, 4], starts[count, 5] = _grid_date(first, span, j), shapes[i, j, 3]
        count += 1
    return count
