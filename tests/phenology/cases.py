"""Curves, batches of series and studies from known numbers, for the room's tests."""

import numpy as np

from matryo.phenology.curves import curve, evaluate_gradients, evaluate_many
from matryo.phenology.season import measure

WINDOW = (1.0, 366.0)
BECK = curve("beck")
TRUTH = np.array([0.3, 0.4, 140.0, 0.1, 255.0, 0.1])
"""The issue's truth: base, amplitude, SOS, rate, EOS, rate."""

PARAMETERS = {
    "beck": [0.3, 0.4, 140, 0.1, 255, 0.08],
    "elmore": [0.3, 0.5, 140, 0.1, 255, 0.08, 0.0005],
    "gu": [0.3, 0.4, 0.35, 140, 0.1, 255, 0.08, 1.5, 0.7],
    "klosterman": [0.02, 0.3, -0.05, 0.03, 0.4, 140, 0.1, 255, 0.08, 1.0, 1.0, 1.5, 0.7],
    "gaussian": [0.3, 0.4, 200, 0.02, 3, 0.015, 4],
}


def visits(m):
    return np.linspace(90, 290, m)


def mixed_truths(n, rng):
    low, high = [0.25, 0.3, 120, 0.05, 240, 0.05], [0.4, 0.5, 160, 0.15, 270, 0.15]
    return rng.uniform(low, high, (n, 6))


def draw(p, t, rng, noise=0.02):
    """NDVI of Beck truths p (n, 6) at times t (m,) with normal errors."""
    t = np.broadcast_to(t, (len(p), len(t)))
    return evaluate_many(BECK, p, t) + rng.normal(0, noise, t.shape)


def bound(p, t, noise=0.02):
    """The Cramér–Rao bound of every metric: the delta method on σ²(JᵀJ)⁻¹ at the truth."""
    J = evaluate_gradients(BECK, p, np.broadcast_to(t, (len(p), len(t))))
    return measure(BECK, p, noise**2 * np.linalg.inv(np.einsum("nti,ntj->nij", J, J)), WINDOW)
