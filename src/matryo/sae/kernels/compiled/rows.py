"""Decoding row by row: every nested reconstruction, its loss and both gradients in one pass over a row's entries."""

import numpy as np
from numba import njit, prange

from matryo.sae.kernels.compiled import OPTIONS


@njit(**OPTIONS)
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


@njit(**OPTIONS)
def keep_largest_in_rows(pre, k, chosen):
    """chosen[r, i] = 1 for the k largest of row r of `pre` (any of equal ones at the boundary), 0 for the others."""
    batch, n = pre.shape
    parts = min(batch, 64)
    for t in prange(parts):
        work = np.empty(n, pre.dtype)
        for r in range(batch * t // parts, batch * (t + 1) // parts):
            line = pre[r]
            for i in range(n):
                work[i] = line[i]
            low, high, want = 0, n - 1, n - k
            while low < high:  # Hoare's selection: work[want] becomes the k-th largest
                pivot = work[(low + high) // 2]
                i, j = low, high
                while i <= j:
                    while work[i] < pivot:
                        i += 1
                    while work[j] > pivot:
                        j -= 1
                    if i <= j:
                        work[i], work[j] = work[j], work[i]
                        i += 1
                        j -= 1
                if want <= j:
                    high = j
                elif want >= i:
                    low = i
                else:
                    break
            limit = work[want]
            above = 0
            for i in range(n):
                above += line[i] > limit
            left = k - above
            mark = chosen[r]
            for i in range(n):
                v = line[i]
                keep = v > limit
                if v == limit and left > 0:
                    keep = True
                    left -= 1
                mark[i] = 1 if keep else 0
