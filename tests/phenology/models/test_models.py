"""Splits that share nothing, settings and cut-offs from training rows, scores and weights against brute force."""

import dataclasses

import numpy as np
import pytest
from tests.phenology.models.studies import made_study

from matryo.phenology.models import (
    BASELINES,
    ModelConfig,
    between_variance,
    count_folds,
    fit_mixed,
    fit_model,
    make_splits,
    score,
    validate,
    weights_of,
)
from matryo.phenology.models.splits import inner_splits

STUDY = made_study()


@pytest.mark.parametrize("by", ["plot", "transect"])
@pytest.mark.parametrize("scheme", ["year", "plot", "both"])
def test_training_and_test_rows_share_no_year_or_plot(scheme, by):
    splits = make_splits(STUDY, scheme, 4, by)
    assert (np.sum([split.test for split in splits], axis=0) == 1).all()  # every row is tested once
    for split in splits:
        for inner in (split, *inner_splits(STUDY, split.train, scheme, 3, by, 0)):
            assert not (inner.train & inner.test).any()
            assert inner is split or not (inner.test & split.test).any()
            if scheme != "plot":
                assert not set(STUDY.season[inner.train]) & set(STUDY.season[inner.test])
            if scheme != "year":
                assert not set(STUDY.group(by)[inner.train]) & set(STUDY.group(by)[inner.test])


def test_a_held_out_row_has_no_say_in_its_own_prediction():
    """Cut-off, weights, settings and fit: nothing changes when the targets of the test rows do."""
    STUDY = made_study(plots=12, years=4)
    config = ModelConfig(model=("ridge", "boosting"), scheme=("both",), plot_folds=2, draws=10)
    seen = []

    def drivers(cutoff):
        seen.append(cutoff)
        X = STUDY.drivers(0)
        return X + np.array([0.01 * cutoff, 0, 0])

    study = dataclasses.replace(STUDY, drivers=drivers)
    test = make_splits(study, "both", 2)[3].test
    moved = np.where(test, study.y - 60, study.y)  # much earlier than any other
    before = {v.model: v for v in validate(study, config)}
    after = {v.model: v for v in validate(dataclasses.replace(study, y=moved, event=moved), config)}
    for name, one in before.items():
        np.testing.assert_array_equal(one.predicted[test], after[name].predicted[test])
        assert one.settings[3] == after[name].settings[3]
        assert (
            one.cutoffs[3]
            == after[name].cutoffs[3]
            == int(np.floor(study.y[make_splits(study, "both", 2)[3].train].min()))
        )
    assert len(set(seen)) > 1


def test_baselines_are_means_and_na_where_there_is_none():
    config = ModelConfig(model=("ols",), plot_folds=4, draws=10)
    found = {(v.model, v.scheme): v for v in validate(STUDY, config)}
    for name, scheme in (("year_mean", "year"), ("plot_mean", "plot"), ("plot_mean", "both"), ("year_mean", "both")):
        assert found[name, scheme].scores is None
        assert np.isnan(found[name, scheme].predicted).all()
    one = found["plot_mean", "year"]
    split, X, _ = one.fitted[0]
    rows = split.train & (STUDY.plot == "P03")
    w = weights_of(STUDY.se[split.train], between_variance(X[split.train], STUDY.y[split.train], STUDY.se[split.train]))
    expected = np.average(STUDY.y[rows], weights=w[np.flatnonzero(split.train).searchsorted(np.flatnonzero(rows))])
    assert one.predicted[split.test & (STUDY.plot == "P03")] == pytest.approx(expected)
    assert count_folds(STUDY, config) == (len(BASELINES) + 1) * (6 + 4 + 24)


def test_every_model_learns_a_linear_truth_from_other_years_and_plots():
    study = made_study(plots=24, years=9, noise=0.3, plot_sd=0.3, year_sd=0.3)
    config = ModelConfig(scheme=("plot",), plot_folds=3, draws=20, inner_folds=2)
    found = {v.model: v.scores for v in validate(study, config)}
    assert set(found) == {*BASELINES, *config.model}
    for name in config.model:
        assert found[name].rmse < 0.62 * found["mean"].rmse, name
        assert found[name].intervals["rmse"][0] < found[name].rmse < found[name].intervals["rmse"][1]


def test_scores_are_the_formulas():
    rng = np.random.default_rng(0)
    y, predicted = rng.normal(100, 5, 60), rng.normal(100, 5, 60)
    plot, year = np.repeat([f"p{i}" for i in range(12)], 5), np.tile(np.arange(5), 12)
    predicted[:5] = np.nan
    found = score(y, predicted, plot, year, 300, 0)
    y, predicted, plot, year = y[5:], predicted[5:], plot[5:], year[5:]
    r = y - predicted
    assert found.rows == 55
    assert found.r2 == pytest.approx(1 - np.sum(r**2) / np.sum((y - y.mean()) ** 2))
    assert found.rmse == pytest.approx(np.sqrt(np.mean(r**2)))
    assert found.mae == pytest.approx(np.mean(np.abs(r)))
    by_year = [np.sqrt(np.mean(r[year == k] ** 2)) for k in range(5)]
    assert found.years == pytest.approx((min(by_year), max(by_year)))
    pairs = [(r[i], r[i + 1]) for i in range(54) if plot[i] == plot[i + 1]]
    assert found.lag1 == pytest.approx(np.corrcoef(np.transpose(pairs))[0, 1])
    few = score(y, predicted, np.repeat(list("abcde"), 11), year, 300, 0)
    assert few.intervals is None  # five groups are no sample to resample


def test_group_bootstrap_is_wider_than_a_row_bootstrap_where_plots_differ():
    rng = np.random.default_rng(1)
    plot = np.repeat(np.arange(20), 10)
    r = rng.normal(0, 3, 20)[plot] + rng.normal(0, 0.5, 200)
    by_plot = score(r, np.zeros(200), plot.astype(str), np.tile(np.arange(10), 20), 800, 0).intervals["rmse"]
    by_row = score(r, np.zeros(200), np.arange(200).astype(str), np.tile(np.arange(10), 20), 800, 0).intervals["rmse"]
    assert np.ptp(by_plot) > 1.8 * np.ptp(by_row)


def test_tau_is_what_the_errors_leave():
    rng = np.random.default_rng(2)
    X, se = rng.normal(size=(4000, 2)), rng.uniform(0.5, 3, 4000)
    y = X @ [1.0, -2.0] + rng.normal(0, 1.5, 4000) + se * rng.normal(size=4000)
    tau2 = between_variance(X, y, se)
    assert tau2 == pytest.approx(1.5**2, rel=0.1)
    assert between_variance(X, X @ [1.0, -2.0] + 0.5 * se * rng.normal(size=4000), se) == 0
    w = weights_of(se, tau2)
    np.testing.assert_allclose(w, (1 / (tau2 + se**2)) / np.mean(1 / (tau2 + se**2)))


def test_ols_is_weighted_least_squares_and_errors_count():
    import statsmodels.api as sm

    X, y, se = STUDY.drivers(0), STUDY.y, STUDY.se
    groups = {"plot": STUDY.plot, "year": STUDY.season.astype(str)}
    fitted = fit_model("ols", X, y, se, groups)
    twin = sm.WLS(y, sm.add_constant(X), weights=1 / (fitted.tau2 + se**2)).fit()
    np.testing.assert_allclose(fitted.predict(X, groups), twin.fittedvalues, rtol=1e-9)
    loud = se.copy()
    loud[7] = 1e4
    outlier = y.copy()
    outlier[7] += 500
    with_outlier = fit_model("ols", X, outlier, loud, groups).predict(X, groups)
    np.testing.assert_allclose(with_outlier, fitted.predict(X, groups), atol=1.0)


def test_the_mixed_model_is_statsmodels_and_recovers_its_truth():
    import pandas as pd
    import statsmodels.formula.api as smf

    study = made_study(plots=40, years=8, noise=0.5, seed=3)
    X = study.drivers(0)[:, :1]
    groups = {"plot": study.plot, "year": study.season.astype(str)}
    found = fit_mixed(X, study.y, np.ones(len(study)), groups)
    frame = pd.DataFrame({"y": study.y, "x": X[:, 0], "plot": study.plot, "year": groups["year"], "one": 1})
    formulas = {"plot": "0 + C(plot)", "year": "0 + C(year)"}
    twin = smf.mixedlm("y ~ x", frame, groups="one", vc_formula=formulas).fit()
    np.testing.assert_allclose(found.coefficients, twin.fe_params, rtol=1e-3)
    np.testing.assert_allclose(found.errors, twin.bse_fe, rtol=2e-2)
    assert found.coefficients[1] == pytest.approx(-1.5, abs=0.35)
    assert found.variances["plot"] == pytest.approx(4, rel=0.6)
    known = found.predict(X, groups)
    unknown = found.predict(X, {kind: np.full(len(study), "?") for kind in groups})
    assert np.std(study.y - known) < np.std(study.y - unknown)
    np.testing.assert_allclose(unknown, found.coefficients[0] + X @ found.coefficients[1:])
