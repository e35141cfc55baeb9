"""Fitting and predicting, one way for all models and baselines."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from matryo.phenology.models.mixed import fit_mixed
from matryo.phenology.models.weights import between_variance, weights_of
from matryo.spine.errors import unknown
from matryo.spine.seeding import seed_for

TREES, RATE, SUBSAMPLE = 100, 0.08, 0.8
"""Boosting: trees, learning rate, share of rows for each tree (Friedman 2002)."""

HIDDEN, ITERATIONS = 8, 300
"""MLP: hidden units, and steps of L-BFGS."""

GP_ITERATIONS = 25
"""Steps of L-BFGS on the Gaussian process's marginal likelihood: later ones only stretch the scales of idle drivers."""

Groups = dict[str, np.ndarray]


@dataclass(frozen=True)
class Fitted:
    """A model that was fitted: `predict` takes drivers (n, k) and the rows' plot, transect and year; NaN is n/a."""

    name: str
    settings: dict[str, Any]
    tau2: float
    predict: Callable[[np.ndarray, Groups], np.ndarray]


def fit_model(
    name: str,
    X: np.ndarray,
    y: np.ndarray,
    se: np.ndarray,
    groups: Groups,
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    tau2: float | None = None,
) -> Fitted:
    """Fit a model to training rows, weighted by 1/(τ² + SE²).

    Drivers are standardised by the training rows. Models see the drivers only; the mixed model and the baselines see
    `groups` as well.

    Args:
        name: A model or baseline.
        X: (n, k) drivers.
        y: (n,) target.
        se: (n,) standard errors of the target.
        groups: plot, transect and year of each row.
        settings: A point of the model's grid.
        seed: Of the network's start and the trees' samples.
        tau2: τ² of these rows where it is known already; estimated where not.
    """
    settings = settings or {}
    tau2 = between_variance(X, y, se) if tau2 is None else tau2
    w = weights_of(se, tau2)
    if name in ("mean", "plot_mean", "year_mean"):
        return Fitted(name, settings, tau2, _fit_baseline(name, y, w, groups))
    if name == "mixed":
        mixed = fit_mixed(X, y, w, groups)
        return Fitted(name, settings, tau2, mixed.predict)
    centre, scale = X.mean(axis=0), X.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    predict = _fit_regressor(name, (X - centre) / scale, y, se, w, tau2, settings, seed)
    return Fitted(name, settings, tau2, lambda rows, groups: predict((rows - centre) / scale))


def _fit_baseline(
    name: str, y: np.ndarray, w: np.ndarray, groups: Groups
) -> Callable[[np.ndarray, Groups], np.ndarray]:
    mean = float(np.average(y, weights=w))
    if name == "mean":
        return lambda rows, groups: np.full(len(rows), mean)
    kind = "plot" if name == "plot_mean" else "year"
    levels, index = np.unique(groups[kind].astype(str), return_inverse=True)
    means = np.bincount(index, weights=w * y) / np.bincount(index, weights=w)
    known = dict(zip(levels.tolist(), means.tolist(), strict=True))
    return lambda rows, groups: np.array([known.get(str(level), np.nan) for level in groups[kind]])


def _fit_regressor(name, Z, y, se, w, tau2, settings, seed) -> Callable[[np.ndarray], np.ndarray]:
    """Fit on standardised drivers; the target is standardised too, for the network and the process."""
    middle, size = float(np.average(y, weights=w)), float(y.std()) or 1.0
    z, root = (y - middle) / size, np.sqrt(w)
    if name in ("ols", "ridge"):
        penalty = settings.get("alpha", 0.0)
        shift = np.average(Z, axis=0, weights=w)
        A, v = (Z - shift) * root[:, None], z * root
        if penalty:
            b = np.linalg.solve(A.T @ A + penalty * np.eye(A.shape[1]), A.T @ v)
        else:
            b = np.linalg.lstsq(A, v, rcond=None)[0]  # the shortest of the solutions, where there are several
        intercept = float(np.average(z, weights=w))
        return lambda rows: middle + size * (intercept + (rows - shift) @ b)
    with warnings.catch_warnings():
        from sklearn.exceptions import ConvergenceWarning

        warnings.simplefilter("ignore", ConvergenceWarning)  # a step limit is part of the settings
        estimator = _estimator(name, settings, seed, (se / size) ** 2, tau2 / size**2, Z.shape[1])
        estimator.fit(Z, z, **({} if name == "gp" else {"sample_weight": w}))
    return lambda rows: middle + size * estimator.predict(rows)


def _climb(obj_func: Callable[..., Any], initial_theta: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, float]:
    """The Gaussian process's optimiser, with fewer steps; scikit-learn names the arguments."""
    from scipy.optimize import minimize

    options = {"maxiter": GP_ITERATIONS}
    found = minimize(obj_func, initial_theta, jac=True, bounds=bounds, method="L-BFGS-B", options=options)
    return found.x, float(found.fun)


def _estimator(name: str, settings: dict[str, Any], seed: int, noise: np.ndarray, tau2: float, k: int) -> Any:
    state = seed_for(seed, "model", name) % 2**32
    if name == "mlp":
        from sklearn.neural_network import MLPRegressor

        return MLPRegressor(
            hidden_layer_sizes=(HIDDEN,),
            activation="tanh",
            solver="lbfgs",
            alpha=settings.get("alpha", 3.0),
            max_iter=ITERATIONS,
            random_state=state,
        )
    if name == "boosting":
        from sklearn.ensemble import GradientBoostingRegressor

        depth = settings.get("max_depth", 2)
        return GradientBoostingRegressor(
            n_estimators=TREES, learning_rate=RATE, subsample=SUBSAMPLE, max_depth=depth, random_state=state
        )
    if name == "gp":
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(np.full(k, 2.0), (0.3, 1e3))  # pyright: ignore[reportArgumentType]
        kernel = kernel + WhiteKernel(max(tau2, 0.05), (1e-3, 10.0))
        settings = {"alpha": noise + 1e-8, "optimizer": _climb}
        return GaussianProcessRegressor(kernel=kernel, random_state=state, **settings)
    from matryo.phenology.models.config import BASELINES, MODELS

    raise unknown("model", name, [*MODELS, *BASELINES])
