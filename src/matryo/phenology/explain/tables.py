"""Validations, explanations and slopes as long tables, one row for each number that a report shows."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from matryo.phenology.explain.attribute import Attribution
from matryo.phenology.explain.slopes import soil_slope, weather_slopes, with_definition
from matryo.phenology.models import Study, Validation
from matryo.phenology.season.definitions import DEFINITIONS

if TYPE_CHECKING:
    import pandas as pd


def score_tables(validations: Sequence[Validation], studies: dict[str, Study]) -> "dict[str, pd.DataFrame]":
    """scores: a row for each target, scheme and model; predictions: for each left-out row; folds: for each fit."""
    import pandas as pd

    scores, predictions, folds = [], [], []
    for v in validations:
        s, study = v.scores, studies[v.target]
        row = {"target": v.target, "scheme": v.scheme, "model": v.model, "rows": s.rows if s else 0}
        for name in ("r2", "rmse", "mae"):
            low, high = s.intervals[name] if s and s.intervals else (np.nan, np.nan)
            row |= {name: getattr(s, name) if s else np.nan, f"{name}_low": low, f"{name}_high": high}
        row |= {"rmse_year_least": s.years[0] if s else np.nan, "rmse_year_largest": s.years[1] if s else np.nan}
        row |= {name: getattr(s, name) if s else np.nan for name in ("lag1", "between_years", "between_plots")}
        scores.append(row)
        keys = study.keys[["plot", "season"]]
        told = {"target": v.target, "scheme": v.scheme, "model": v.model}
        predictions.append(keys.assign(**told, observed=study.y, se=study.se, predicted=v.predicted))
        for (split, _, model), settings, cutoff in zip(v.fitted, v.settings, v.cutoffs, strict=True):
            chosen = ", ".join(f"{key} {value}" for key, value in settings.items())
            counts = {"train": int(split.train.sum()), "test": int(split.test.sum())}
            folds.append(
                {**told, "fold": split.name, **counts, "cutoff": cutoff, "settings": chosen, "tau": model.tau2**0.5}
            )
    return {
        "scores": pd.DataFrame(scores),
        "predictions": pd.concat(predictions, ignore_index=True),
        "folds": pd.DataFrame(folds),
    }


def attribution_tables(attributions: Sequence[Attribution], studies: dict[str, Study]) -> "dict[str, pd.DataFrame]":
    """shap: a row for each explained row and driver (or group); effects: accumulated local effects; folds_slopes."""
    import pandas as pd

    shap, effects, slopes = [], [], []
    for a in attributions:
        study = studies[a.target]
        keys = study.keys[["plot", "season"]].iloc[a.rows].reset_index(drop=True)
        told = {"target": a.target, "model": a.model, "scheme": a.scheme}
        for k, name in enumerate(study.names):
            columns = {
                "fold": a.fold,
                "kind": "driver",
                "driver": name,
                "value": a.X[:, k],
                "shap": a.values[:, k],
                "base": a.bases,
            }
            shap.append(keys.assign(**told, **columns))
        for k, name in enumerate(a.groups):
            columns = {
                "fold": a.fold,
                "kind": "group",
                "driver": name,
                "value": np.nan,
                "shap": a.grouped[:, k],
                "base": a.bases,
            }
            shap.append(keys.assign(**told, **columns))
        for fold, ale in enumerate(a.ale):
            effects.append(pd.DataFrame({**told, "fold": fold, "soil_t": ale.edges, "effect": ale.effect}))
            slopes.append(
                {**told, "fold": fold, "shap_slope": a.shap_slopes[fold], "ale_slope": ale.slope, "gap": a.gap}
            )
    columns = ["plot", "season", "target", "model", "scheme", "fold", "kind", "driver", "value", "shap", "base"]
    return {
        "shap": pd.concat(shap, ignore_index=True) if shap else pd.DataFrame(columns=columns),
        "effects": pd.concat(effects, ignore_index=True)
        if effects
        else pd.DataFrame(columns=["target", "model", "scheme", "fold", "soil_t", "effect"]),
        "fold_slopes": pd.DataFrame(
            slopes, columns=["target", "model", "scheme", "fold", "shap_slope", "ale_slope", "gap"]
        ),
    }


def slope_table(
    studies: dict[str, Study], seasons: "pd.DataFrame", restudy: Callable[[str, "pd.DataFrame"], Study]
) -> "pd.DataFrame":
    """Soil and weather slopes of every target, and the soil slope of SOS and EOS under every definition.

    `restudy` makes a study of a target from a table of seasons; a definition that leaves too few rows has no slope.
    """
    import pandas as pd

    found = []
    for target, study in studies.items():
        found += [slope for slope in (soil_slope(study),) if slope is not None]
        found += weather_slopes(study)
        if target in ("sos", "eos") and "soil_t" in study.names:
            for definition in DEFINITIONS:
                try:
                    other = restudy(target, with_definition(seasons, target, definition))
                except ValueError:
                    continue
                found += [slope for slope in (soil_slope(other, definition),) if slope is not None]
    names = ["target", "driver", "definition", "slope", "se", "low", "high", "dof", "rows", "method", "note"]
    return pd.DataFrame([{name: getattr(slope, name) for name in names} for slope in found], columns=names)
