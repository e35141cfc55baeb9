"""How much a row counts: 1/(τ² + SE²), with τ² the variance that the dates' own errors leave."""

import numpy as np


def between_variance(X: np.ndarray, y: np.ndarray, se: np.ndarray) -> float:
    """τ² by the method of Paule and Mandel (1982), for the linear model y = [1 X]·b.

    τ² solves Σ r²/(τ² + SE²) = n − rank, with r the residuals of the fit with those weights; the sum falls as τ²
    grows. 0 where the errors alone explain the scatter.
    """
    A = np.column_stack([np.ones(len(y)), _standardised(X)])
    dof = len(y) - np.linalg.matrix_rank(A)
    if dof <= 0:
        return 0.0

    def excess(tau2: float) -> float:
        w = 1 / (tau2 + se**2)
        root = np.sqrt(w)
        b = np.linalg.lstsq(A * root[:, None], y * root, rcond=None)[0]
        return float(np.sum(w * (y - A @ b) ** 2)) - dof

    if not (se > 0).all():
        raise ValueError(f"a standard error is {se.min():g}; expected positive ones")
    if excess(0.0) <= 0:
        return 0.0
    from scipy.optimize import brentq

    high = float(np.var(y)) + float(np.median(se)) ** 2
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-6 * high))  # pyright: ignore[reportArgumentType]


def weights_of(se: np.ndarray, tau2: float) -> np.ndarray:
    """Weights 1/(τ² + SE²), scaled to a mean of 1."""
    w = 1 / (tau2 + se**2)
    return w / w.mean()


def _standardised(X: np.ndarray) -> np.ndarray:
    spread = X.std(axis=0)
    return (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
