"""Decoding row by row: every nested reconstruction, its loss and both gradients in one pass over a row's entries."""

import numpy as np
from numba import prange

from matryo.sae.kernels.compiled import parallel, serial


@parallel
def decode_rows(target, b_dec, W_dec, row_start, latent, z, ends, scale, slope, grad_z, squares, grad_b, residual):
    """Errors of all levels, ∂L/∂x̂ of each latent's level, ∂L/∂z at the entries.

    With e_l[r] = b_dec + Σ_{j < ends[l]} z_rj W_dec[j] − target[r] and L = Σ_l scale_l/2 Σ_r ‖e_l[r]‖²:

        slope[l, r] = Σ_{m ≥ l} scale_m e_m[r]     (a latent of level l is part of every level from l on)
        grad_z[e]   = slope[l(j), r] · W_dec[j]    for entry e = (r, j)
        squares[t, l] = Σ ‖e_l[r]‖² and grad_b[t] = Σ slope[0, r] over the rows of thread t
        residual[r] = −e_last[r], where residual has rows.
    """
    parts = len(squares)
    batch, d = target.shape
    levels = len(ends)
    for t in prange(parts):
        error = np.empty(d, target.dtype)
        own_b = grad_b[t]
        for r in range(batch * t // parts, batch * (t + 1) // parts):
            goal = target[r]
            for i in range(d):
                error[i] = b_dec[i] - goal[i]
            e, stop = row_start[r], row_start[r + 1]
            for level in range(levels):
                while e < stop and latent[e] < ends[level]:
                    a = z[e]
                    if a != 0:
                        w = W_dec[latent[e]]
                        for i in range(d):
                            error[i] += a * w[i]
                    e += 1
                out, factor = slope[level, r], scale[level]
                total = error.dtype.type(0)
                for i in range(d):
                    total += error[i] * error[i]
                    out[i] = factor * error[i]
                squares[t, level] += total
            if len(residual):
                left = residual[r]
                for i in range(d):
                    left[i] = -error[i]
            for level in range(levels - 2, -1, -1):
                out, later = slope[level, r], slope[level + 1, r]
                for i in range(d):
                    out[i] += later[i]
            out = slope[0, r]
            for i in range(d):
                own_b[i] += out[i]
            level = 0
            for e in range(row_start[r], stop):
                j = latent[e]
                while j >= ends[level]:
                    level += 1
                out, w = slope[level, r], W_dec[j]
                total = error.dtype.type(0)
                for i in range(d):
                    total += out[i] * w[i]
                grad_z[e] = total


@parallel
def decode_shares(row_start, latent, z, W_dec, ends, shares, parts):
    """shares[l, r] = Σ z_rj W_dec[j] over row r's entries of level l alone."""
    levels, batch, d = shares.shape
    for t in prange(parts):
        for r in range(batch * t // parts, batch * (t + 1) // parts):
            e, stop = row_start[r], row_start[r + 1]
            for level in range(levels):
                out = shares[level, r]
                for i in range(d):
                    out[i] = 0
                while e < stop and latent[e] < ends[level]:
                    a = z[e]
                    if a != 0:
                        w = W_dec[latent[e]]
                        for i in range(d):
                            out[i] += a * w[i]
                    e += 1


@parallel
def read_slopes(row_start, latent, W_dec, ends, slope, grad_z, parts):
    """grad_z[e] = slope[l(j), r] · W_dec[j] for entry e = (r, j), as in `decode_rows`."""
    _, batch, d = slope.shape
    for t in prange(parts):
        for r in range(batch * t // parts, batch * (t + 1) // parts):
            level = 0
            for e in range(row_start[r], row_start[r + 1]):
                j = latent[e]
                while j >= ends[level]:
                    level += 1
                out, w = slope[level, r], W_dec[j]
                total = slope.dtype.type(0)
                for i in range(d):
                    total += out[i] * w[i]
                grad_z[e] = total


@serial
def _count_above(line, limit):
    count = 0
    for i in range(len(line)):
        count += line[i] > limit
    return count


@serial
def _find_limit(line, k):
    """A number that exactly k entries exceed; where equal entries forbid it, the k-th largest."""
    low, high = line[0], line[0]
    for i in range(len(line)):
        low, high = min(low, line[i]), max(high, line[i])
    if _count_above(line, low) <= k:
        return low
    while True:  # more than k exceed low, fewer than k exceed high
        middle = low + (high - low) / 2
        if not low < middle < high:
            return high
        count = _count_above(line, middle)
        if count == k:
            return middle
        if count > k:
            low = middle
        else:
            high = middle


@parallel
def keep_largest_in_rows(pre, k, chosen):
    """pre[r] = relu(pre[r]) at the k largest of row r (any of equal ones at the boundary), 0 elsewhere.

    chosen[r, i] is 1 at those k, 0 elsewhere. By bisection: a dozen vectorised counts a row are several times as fast
    as selection, whose branches are chance.
    """
    batch, n = pre.shape
    parts = min(batch, 64)
    for t in prange(parts):
        for r in range(batch * t // parts, batch * (t + 1) // parts):
            line, mark = pre[r], chosen[r]
            limit = _find_limit(line, k)
            left = k - _count_above(line, limit)
            for i in range(n):
                mark[i] = line[i] > limit
            if left:
                for i in range(n):
                    if line[i] == limit and left:
                        mark[i] = 1
                        left -= 1
            for i in range(n):
                line[i] = mark[i] * max(line[i], line.dtype.type(0))


@parallel
def mask_rows(grad, chosen, sums):
    """Multiply grad by chosen; sums[t] = Σ_r grad[r] over the rows of part t."""
    parts = len(sums)
    batch, n = grad.shape
    for t in prange(parts):
        own = sums[t]
        for r in range(batch * t // parts, batch * (t + 1) // parts):
            line, mark = grad[r], chosen[r]
            for i in range(n):
                line[i] *= mark[i]
                own[i] += line[i]
