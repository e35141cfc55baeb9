"""The update of weights latent by latent: gradient, projection, Adam and unit norm in one pass over each weight row.

A latent's gradients are sums over its entries, and maybe a dense row more (of the auxiliary loss).
"""

import numpy as np
from numba import prange

from matryo.sae.kernels.compiled import parallel, serial
from matryo.sae.kernels.compiled.moments import close_row, hash_of, open_row

CHUNK = 64
"""Latents handed to a thread at a time, in turn, so that the often active first ones are shared out."""


@serial
def sort_by_latent(row_start, latent, z, grad_pre, start, row, z_out, grad_out):
    """Entries to the latent-major view: latent j owns start[j] … start[j+1]−1, by ascending row (a counting sort)."""
    n = len(start) - 1
    start[:] = 0
    for e in range(len(latent)):
        start[latent[e] + 1] += 1
    for j in range(n):
        start[j + 1] += start[j]
    place = start[:n].copy()
    for r in range(len(row_start) - 1):
        for e in range(row_start[r], row_start[r + 1]):
            j = latent[e]
            q = place[j]
            row[q], z_out[q], grad_out[q] = r, z[e], grad_pre[e]
            place[j] = q + 1


@serial
def _gradient_of(j, level, entries, slope, x, W_dec, pull, more, enc, dec):
    """Gradients of latent j's encoder row and decoder row into `enc` and `dec`; that of its bias is returned."""
    start, row, z, grad_pre = entries
    slot, more_enc, more_dec, more_b = more
    for i in range(len(enc)):
        enc[i] = 0
    for i in range(len(dec)):
        dec[i] = 0
    bias = enc.dtype.type(0)
    for q in range(start[j], start[j + 1]):
        r, a, g = row[q], z[q], grad_pre[q]
        bias += g
        line = x[r]
        for i in range(len(enc)):
            enc[i] += g * line[i]
        if a != 0:
            line = slope[level, r]
            for i in range(len(dec)):
                dec[i] += a * line[i]
    if len(pull):
        for i in range(len(dec)):
            dec[i] += pull[j] * W_dec[j, i]
    if len(slot) and slot[j] >= 0:
        s = slot[j]
        bias += more_b[s]
        for i in range(len(enc)):
            enc[i] += more_enc[s, i]
        for i in range(len(dec)):
            dec[i] += more_dec[s, i]
    return bias


@serial
def _project(dec, w):
    """Remove from a gradient the part along the unit row w."""
    along = dec.dtype.type(0)
    for i in range(len(dec)):
        along += dec[i] * w[i]
    for i in range(len(dec)):
        dec[i] -= along * w[i]


@parallel
def gradients(which, W_enc, W_dec, entries, ends, slope, x, pull, more, grad_enc, grad_dec, grad_b, grad_in):
    """Gradients of some latents (ascending) as arrays, neither projected nor clipped.

    grad_in[t] collects −Σ_j grad_b[j] W_enc[j].
    """
    parts, n = len(grad_in), len(which)
    for t in prange(parts):
        own_in = grad_in[t]
        for first in range(t * CHUNK, n, parts * CHUNK):
            level = 0
            for s in range(first, min(first + CHUNK, n)):
                j = which[s]
                while j >= ends[level]:
                    level += 1
                bias = _gradient_of(j, level, entries, slope, x, W_dec, pull, more, grad_enc[s], grad_dec[s])
                grad_b[s] = bias
                if len(own_in) and bias != 0:
                    for i in range(len(own_in)):
                        own_in[i] -= bias * W_enc[j, i]


@parallel
def measure(W_enc, W_dec, entries, ends, slope, x, pull, more, unit_rows, grad_in, squares):
    """squares[t] = Σ of squares of the (projected) gradients of thread t's latents; grad_in as in `gradients`."""
    parts, n = len(squares), len(W_enc)
    for t in prange(parts):
        enc, dec = np.empty(W_enc.shape[1], W_enc.dtype), np.empty(W_dec.shape[1], W_dec.dtype)
        own_in = grad_in[t]
        total = 0.0
        for first in range(t * CHUNK, n, parts * CHUNK):
            level = 0
            for j in range(first, min(first + CHUNK, n)):
                while j >= ends[level]:
                    level += 1
                bias = _gradient_of(j, level, entries, slope, x, W_dec, pull, more, enc, dec)
                if unit_rows:
                    _project(dec, W_dec[j])
                here = bias * bias
                for i in range(len(enc)):
                    here += enc[i] * enc[i]
                for i in range(len(dec)):
                    here += dec[i] * dec[i]
                total += here
                if len(own_in) and bias != 0:
                    for i in range(len(own_in)):
                        own_in[i] -= bias * W_enc[j, i]
        squares[t] = total


@serial
def _adam(w, grad, m, v, adam):
    """W ← w − rate · m / (√v · spread + eps), with m and v moved towards clip · grad and its square."""
    rate, spread, beta1, rest1, beta2, rest2, eps, clip = adam
    for i in range(len(w)):
        g = clip * grad[i]
        m[i] = beta1 * m[i] + rest1 * g
        v[i] = beta2 * v[i] + rest2 * g * g
        w[i] -= rate * m[i] / (np.sqrt(v[i]) * spread + eps)


@serial
def _normalise(w):
    total = w.dtype.type(0)
    for i in range(len(w)):
        total += w[i] * w[i]
    norm = np.sqrt(total)
    for i in range(len(w)):
        w[i] /= norm


@parallel
def update(W_enc, W_dec, enc_moments, dec_moments, entries, ends, slope, x, pull, more, unit_rows, adam, seed, out):
    """One Adam step of all encoder and decoder rows, in place; out = (grad_b, grad_in) as in `gradients`.

    adam = (rate, spread, beta1, 1 − beta1, beta2, 1 − beta2, eps, clip): rate is lr / (1 − beta1^step), spread
    1/√(1 − beta2^step), clip the factor that brings the whole gradient to its largest norm.
    """
    grad_b, grad_in = out
    (m_enc, v_enc), (m_dec, v_dec) = enc_moments, dec_moments
    parts, n = len(grad_in), len(W_enc)
    for t in prange(parts):
        enc, dec = np.empty(W_enc.shape[1], W_enc.dtype), np.empty(W_dec.shape[1], W_dec.dtype)
        m_buffer = np.empty(max(len(enc), len(dec)), W_enc.dtype)
        v_buffer = np.empty_like(m_buffer)
        own_in = grad_in[t]
        for first in range(t * CHUNK, n, parts * CHUNK):
            level = 0
            for j in range(first, min(first + CHUNK, n)):
                while j >= ends[level]:
                    level += 1
                bias = _gradient_of(j, level, entries, slope, x, W_dec, pull, more, enc, dec)
                grad_b[j] = bias
                if len(own_in) and bias != 0:
                    for i in range(len(own_in)):
                        own_in[i] -= bias * W_enc[j, i]
                if unit_rows:
                    _project(dec, W_dec[j])
                mix = hash_of(seed, j)
                m, v = open_row(m_enc[j], m_buffer), open_row(v_enc[j], v_buffer)
                _adam(W_enc[j], enc, m, v, adam)
                close_row(m, m_enc[j], mix)
                close_row(v, v_enc[j], mix ^ np.uint32(0x55555555))
                m, v = open_row(m_dec[j], m_buffer), open_row(v_dec[j], v_buffer)
                _adam(W_dec[j], dec, m, v, adam)
                close_row(m, m_dec[j], mix ^ np.uint32(0x33333333))
                close_row(v, v_dec[j], mix ^ np.uint32(0x0F0F0F0F))
                if unit_rows:
                    _normalise(W_dec[j])
