"""The curves on NumPy arrays."""

import numpy as np

from matryo.phenology.curves.forms import Curve
from matryo.phenology.curves.kernels import gradients, values


def evaluate(form: Curve, parameters: np.ndarray, t: np.ndarray) -> np.ndarray:
    """f(t; p) for one parameter vector and a vector of times."""
    return evaluate_many(form, parameters[None], t[None])[0]


def evaluate_many(form: Curve, parameters: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Values of n series, each at its own m times: parameters (n, k), t (n, m) in days → (n, m)."""
    p, t = _checked(form, parameters, t)
    out = np.empty(t.shape)
    values(form.code, p, t, out)
    return out


def evaluate_gradients(form: Curve, parameters: np.ndarray, t: np.ndarray) -> np.ndarray:
    """∂f/∂p of n series: parameters (n, k), t (n, m) in days → (n, m, k)."""
    p, t = _checked(form, parameters, t)
    out = np.empty((*t.shape, len(form.parameters)))
    gradients(form.code, p, t, out)
    return out


def _checked(form: Curve, parameters: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = np.ascontiguousarray(parameters, dtype=np.float64)
    t = np.ascontiguousarray(t, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != len(form.parameters) or t.ndim != 2 or len(t) != len(p):
        want = f"parameters (n, {len(form.parameters)}) and times (n, m)"
        raise ValueError(f"{form.name}: parameters {p.shape} and times {t.shape}; expected {want}")
    return p, t
