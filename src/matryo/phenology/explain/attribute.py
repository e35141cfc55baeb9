"""Explaining a validated model: Shapley values of left-out rows in every fold, grouped and not, and local effects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from matryo.phenology.explain.ale import Ale, accumulate_effects
from matryo.phenology.explain.shapley import Shapley, explain_rows
from matryo.phenology.models import BASELINES, Study, Validation
from matryo.spine.seeding import numpy_generator

BACKGROUND = 256
"""Background rows at most: all training rows up to here, a random sample of them beyond."""


@dataclass(frozen=True)
class Attribution:
    """Explanations of one model under one scheme.

    Attributes:
        target: Of the study.
        model: The model explained.
        scheme: Whose folds.
        rows: (n,) row of the study of each explained row, each left out of the fit that explains it.
        fold: (n,) fold of each.
        X: (n, k) its drivers.
        values: (n, k) Shapley values of the drivers.
        bases: (n,) base value of its fold.
        groups: Names of the groups.
        grouped: (n, groups) Shapley values of the groups.
        ale: Accumulated local effects of soil temperature, one for each fold.
        shap_slopes: Least-squares slope of soil temperature's Shapley values on it, one for each fold.
        gap: Largest departure from additivity.
    """

    target: str
    model: str
    scheme: str
    rows: np.ndarray
    fold: np.ndarray
    X: np.ndarray
    values: np.ndarray
    bases: np.ndarray
    groups: tuple[str, ...]
    grouped: np.ndarray
    ale: list[Ale]
    shap_slopes: np.ndarray
    gap: float


def choose_model(validations: Sequence[Validation], scheme: str) -> str:
    """The model with the least RMSE on left-out rows of a scheme; baselines and the mixed model cannot be explained."""
    known = [
        v for v in validations
        if v.scheme == scheme and v.model not in BASELINES and v.model != "mixed" and v.scores is not None
    ]  # fmt: skip
    if not known:
        raise ValueError(
            f"no model to explain under {scheme}; expected one besides mixed, give --model ols or --model mlp"
        )
    return min(known, key=lambda v: v.scores.rmse if v.scores else np.inf).model


def attribute(study: Study, validation: Validation, done: Callable[[int], object] = lambda n: None) -> Attribution:
    """Explain the left-out rows of each fold by the model that did not see them, against that fold's training rows."""
    singles = [[k] for k in range(len(study.names))]
    weather = [k for k, name in enumerate(study.names) if name != "soil_t"]
    soil = study.names.index("soil_t") if "soil_t" in study.names else None
    groups = ([[soil]] if soil is not None else []) + ([weather] if weather else [])
    labels = (("soil temperature",) if soil is not None else ()) + (("weather",) if weather else ())
    parts: list[tuple[np.ndarray, np.ndarray, Shapley, Shapley]] = []
    effects, slopes = [], []
    for number, (split, X, model) in enumerate(validation.fitted):
        covered = np.isfinite(X).all(axis=1)
        rows, train = np.flatnonzero(split.test & covered), np.flatnonzero(split.train & covered)
        if len(train) > BACKGROUND:
            train = np.sort(numpy_generator(0, "background", number).choice(train, BACKGROUND, replace=False))

        def predict(cells: np.ndarray, model=model) -> np.ndarray:
            return model.predict(cells, {})

        one = explain_rows(predict, X[rows], X[train], singles)
        many = explain_rows(predict, X[rows], X[train], groups)
        parts.append((rows, X[rows], one, many))
        if soil is not None:
            effects.append(accumulate_effects(predict, X[split.train & covered], soil))
            slopes.append(_slope(X[rows, soil], one.values[:, soil]))
        done(len(rows))
    rows, X, singles_found, grouped = zip(*parts, strict=True)
    return Attribution(
        study.target,
        validation.model,
        validation.scheme,
        np.concatenate(rows),
        np.repeat(np.arange(len(rows)), [len(part) for part in rows]),
        np.concatenate(X),
        np.concatenate([found.values for found in singles_found]),
        np.repeat([found.base for found in singles_found], [len(part) for part in rows]),
        labels,
        np.concatenate([found.values for found in grouped]),
        effects,
        np.array(slopes),
        max(found.gap for found in (*singles_found, *grouped)),
    )


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    spread = np.sum((x - x.mean()) ** 2)
    return float(np.sum((x - x.mean()) * y) / spread) if spread > 0 else np.nan
