"""Nested cross-validation: settings are chosen, and cut-offs taken, within each fold's training rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from matryo.phenology.models.config import BASELINES, GRIDS, ModelConfig
from matryo.phenology.models.estimators import Fitted, fit_model
from matryo.phenology.models.scores import Scores, score
from matryo.phenology.models.splits import Split, inner_splits, make_splits
from matryo.phenology.models.study import Study
from matryo.phenology.models.weights import between_variance


@dataclass(frozen=True)
class Validation:
    """One model under one scheme: predictions of all left-out rows, NaN where n/a, and their scores.

    `fitted` holds each fold's model, with the fold and its design matrix (of all rows, under that fold's cut-off).
    """

    target: str
    model: str
    scheme: str
    predicted: np.ndarray
    scores: Scores | None
    settings: list[dict[str, Any]]
    cutoffs: list[int]
    fitted: list[tuple[Split, np.ndarray, Fitted]]


def validate(study: Study, config: ModelConfig, done: Callable[[int], object] = lambda n: None) -> list[Validation]:
    """Validate the baselines and models of `config` under each of its schemes; `done(1)` is called after every fold."""
    found = []
    groups = {"plot": study.plot, "transect": study.group("transect"), "year": study.season.astype(str)}
    if "transect" not in study.keys:
        del groups["transect"]
    for scheme in config.scheme:
        splits = make_splits(study, scheme, config.plot_folds, config.plots_by, config.seed)
        designs = [study.design(split.train) for split in splits]
        spread: dict[bytes, float] = {}  # τ² by training rows: it is the same for every model and setting
        for name in (*BASELINES, *config.model):
            predicted, settings, fitted = np.full(len(study), np.nan), [], []
            for split, (X, _) in zip(splits, designs, strict=True):
                chosen = choose_settings(name, study, X, split.train, scheme, groups, config, spread)
                model = _fit(name, study, X, split.train, groups, chosen, config.seed, spread)
                test = split.test & np.isfinite(X).all(axis=1)
                predicted[test] = model.predict(X[test], {kind: level[test] for kind, level in groups.items()})
                settings.append(chosen)
                fitted.append((split, X, model))
                done(1)
            scores = score(study.y, predicted, study.plot, study.season, config.draws, config.seed)
            cutoffs = [cutoff for _, cutoff in designs]
            found.append(Validation(study.target, name, scheme, predicted, scores, settings, cutoffs, fitted))
    return found


def count_folds(study: Study, config: ModelConfig) -> int:
    """Fits of the outer folds that `validate` will make."""
    splits = (make_splits(study, scheme, config.plot_folds, config.plots_by, config.seed) for scheme in config.scheme)
    return sum(map(len, splits)) * (len(BASELINES) + len(config.model))


def choose_settings(
    name: str,
    study: Study,
    X: np.ndarray,
    train: np.ndarray,
    scheme: str,
    groups: dict[str, np.ndarray],
    config: ModelConfig,
    spread: dict[bytes, float],
) -> dict[str, Any]:
    """The point of the model's grid with the least squared error on folds within the training rows."""
    grid = GRIDS.get(name)
    if not grid:
        return {}
    inner = inner_splits(study, train, scheme, config.inner_folds, config.plots_by, config.seed)
    if not inner:
        return grid[len(grid) // 2]
    errors = []
    for settings in grid:
        squared = 0.0
        for split in inner:
            model = _fit(name, study, X, split.train, groups, settings, config.seed, spread)
            test = split.test & np.isfinite(X).all(axis=1)
            squared += float(np.sum((study.y[test] - model.predict(X[test], groups)) ** 2))
        errors.append(squared)
    return grid[int(np.argmin(errors))]


def _fit(name, study: Study, X, train, groups, settings, seed, spread) -> Fitted:
    rows = train & np.isfinite(X).all(axis=1)
    key = rows.tobytes()
    if key not in spread:
        spread[key] = between_variance(X[rows], study.y[rows], study.se[rows])
    here = {kind: level[rows] for kind, level in groups.items()}
    return fit_model(name, X[rows], study.y[rows], study.se[rows], here, settings, seed, spread[key])
