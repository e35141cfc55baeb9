"""Linear mixed model with crossed random intercepts, by restricted maximum likelihood (statsmodels).

y = X·b + u[plot] + v[transect] + s[year] + e, with u ~ N(0, σ_u²), v ~ N(0, σ_v²), s ~ N(0, σ_s²), e ~ N(0, σ²/w).
Weights enter by multiplying rows of y, X and the indicator matrices by √w, which makes the errors equal.
"""

import warnings
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MixedFit:
    """A fitted mixed model.

    Attributes:
        coefficients: (k + 1,), the intercept first, and their standard errors.
        errors: (k + 1,).
        variances: Variance of each kind of intercept, and "residual" of a row of weight 1.
        effects: Predicted intercept of each level of each kind (BLUP).
        converged: Whether the optimiser said so.
    """

    coefficients: np.ndarray
    errors: np.ndarray
    variances: dict[str, float]
    effects: dict[str, dict[str, float]]
    converged: bool

    def predict(self, X: np.ndarray, groups: dict[str, np.ndarray]) -> np.ndarray:
        """X·b, plus the intercepts of levels that were seen; 0, their mean, for others."""
        y = self.coefficients[0] + X @ self.coefficients[1:]
        for kind, levels in self.effects.items():
            y = y + np.array([levels.get(str(level), 0.0) for level in groups[kind]])
        return y


def fit_mixed(X: np.ndarray, y: np.ndarray, w: np.ndarray, groups: dict[str, np.ndarray]) -> MixedFit:
    """Fit the model to drivers X (n, k), weights w (n,) and the levels of each kind of intercept, (n,) each.

    A kind with one level, or with a level for each row, has no intercepts of its own and is left out.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

    used = {kind: level for kind, level in groups.items() if 1 < len(np.unique(level)) < len(y)}
    centre, scale = X.mean(axis=0), np.where(X.std(axis=0) > 0, X.std(axis=0), 1.0)
    root, size = np.sqrt(w)[:, None], float(y.std()) or 1.0  # solved in standard units, where the optimiser is at home
    design, basis = _independent((X - centre) / scale)
    A = np.column_stack([np.ones(len(y)), design])
    names, labels, blocks = list(used), [], []
    for kind in names:
        levels = np.unique(used[kind])
        labels.append([[f"{kind}|{level}" for level in levels]])
        blocks.append([(used[kind][:, None] == levels) * root])
    z, one = (y - y.mean()) / size, np.zeros(len(y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a variance of zero, on the boundary, is a usual and valid answer
        model = MixedLM(z * root[:, 0], A * root, one, exog_vc=VCSpec(names, labels, blocks))
        result = model.fit(reml=True, method=["lbfgs", "powell"])
    b, cov = np.asarray(result.fe_params), np.asarray(result.cov_params())[: A.shape[1], : A.shape[1]]
    to = np.zeros((X.shape[1] + 1, A.shape[1]))  # coefficients of the standardised basis → of X
    to[0, 0], to[1:, 1:] = 1.0, basis / scale[:, None]
    to[0, 1:] = -centre @ to[1:, 1:]
    coefficients = size * (to @ b)
    coefficients[0] += y.mean()
    errors = size * np.sqrt(np.clip(np.diagonal(to @ cov @ to.T), 0, None))
    effects: dict[str, dict[str, float]] = {kind: {} for kind in names}
    for label, effect in result.random_effects[0.0].items():
        kind, _, level = str(label).partition("[")[2].rstrip("]").partition("|")
        effects[kind][level] = size * float(effect)
    variances = {kind: float(v) * size**2 for kind, v in zip(names, result.vcomp, strict=True)}
    variances["residual"] = float(result.scale) * size**2
    return MixedFit(coefficients, errors, variances, effects, bool(result.converged))


def _independent(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns X·basis that span X, and the basis: with few years some weather columns are sums of others."""
    _, s, vt = np.linalg.svd(X, full_matrices=False)
    basis = vt[s > 1e-8 * max(float(s.max(initial=0.0)), 1e-300)].T
    return X @ basis, basis
