"""Shapley values, local effects and slopes against brute force and known truths."""

from itertools import combinations
from math import factorial

import numpy as np
import pytest
from scipy import stats
from tests.phenology.models.studies import made_study

from matryo.phenology.explain import accumulate_effects, attribute, explain_rows, soil_slope, weather_slopes
from matryo.phenology.models import ModelConfig, validate


def model(X):
    return np.sin(X @ np.array([0.3, -0.7, 0.2, 0.5])) + X[:, 0] * X[:, 2]


def brute(X, background, groups):
    n = len(groups)
    out = np.zeros((len(X), n))

    def value(x, chosen):
        keep = np.zeros(X.shape[1], bool)
        for g in chosen:
            keep[list(groups[g])] = True
        return model(np.where(keep, x, background)).mean()

    for i, x in enumerate(X):
        for player in range(n):
            for size in range(n):
                for chosen in combinations([g for g in range(n) if g != player], size):
                    share = factorial(size) * factorial(n - size - 1) / factorial(n)
                    out[i, player] += share * (value(x, (*chosen, player)) - value(x, chosen))
    return out


@pytest.mark.parametrize("groups", [[[0], [1], [2], [3]], [[1], [0, 2, 3]], [[3, 0], [2, 1]]])
def test_shapley_values_are_the_definition(groups):
    rng = np.random.default_rng(0)
    X, background = rng.normal(size=(5, 4)), rng.normal(size=(31, 4))
    found = explain_rows(model, X, background, groups)
    np.testing.assert_allclose(found.values, brute(X, background, groups), atol=1e-12)
    np.testing.assert_allclose(found.values.sum(axis=1) + found.base, model(X), atol=1e-12)
    assert found.base == pytest.approx(model(background).mean())


def test_what_cannot_be_explained_is_told():
    X = np.zeros((2, 13))
    with pytest.raises(ValueError, match="13 players have 2\\^13 coalitions; expected at most 12"):
        explain_rows(model, X, X, [[k] for k in range(13)])
    with pytest.raises(ValueError, match="expected each of the 4 columns once"):
        explain_rows(model, X[:, :4], X[:, :4], [[0], [1, 2]])
    rng = np.random.default_rng(0)
    with pytest.raises(ArithmeticError, match="miss the predictions"):
        explain_rows(lambda A: rng.normal(size=len(A)), rng.normal(size=(4, 2)), rng.normal(size=(9, 2)), [[0], [1]])


def test_local_effects_do_not_tear_correlated_drivers_apart():
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 10, 800)
    X = np.column_stack([x, x + rng.normal(0, 0.2, 800)])

    def f(A):  # far from the data it explodes: partial dependence would see that, local effects must not
        return -1.5 * A[:, 0] + 2.0 * A[:, 1] + np.where(np.abs(A[:, 0] - A[:, 1]) > 3, 1e6, 0)

    ale = accumulate_effects(f, X, 0)
    assert ale.slope == pytest.approx(-1.5, abs=1e-6)
    assert ale.counts.sum() == 800
    np.testing.assert_allclose(np.diff(ale.effect) / np.diff(ale.edges), -1.5, atol=1e-6)
    assert np.isnan(accumulate_effects(f, np.ones((9, 2)), 0).slope)


def test_attribution_of_a_linear_model_is_its_slope_in_every_fold():
    study = made_study(plots=12, years=5, noise=0.1)
    found = validate(study, ModelConfig(model=("ols",), scheme=("year",), draws=5))
    one = attribute(study, next(v for v in found if v.model == "ols"))
    assert sorted(one.rows) == list(range(len(study)))  # every season once, by the fold that had not seen it
    np.testing.assert_array_equal(one.fold, study.season[one.rows] - 2014)
    predicted = next(v for v in found if v.model == "ols").predicted[one.rows]
    np.testing.assert_allclose(one.values.sum(axis=1) + one.bases, predicted, atol=1e-8)
    np.testing.assert_allclose(one.grouped.sum(axis=1) + one.bases, predicted, atol=1e-8)
    np.testing.assert_allclose(one.shap_slopes, [ale.slope for ale in one.ale], rtol=1e-6)
    assert one.groups == ("soil temperature", "weather")


# --- slopes


def test_two_way_clusters_are_statsmodels():
    import statsmodels.api as sm

    study = made_study(plots=15, years=7)
    found = soil_slope(study)
    D = (study.season[:, None] == np.unique(study.season)).astype(float)
    A = np.column_stack([study.drivers(0)[:, 0], D])
    from matryo.phenology.models import between_variance

    tau2 = between_variance(np.column_stack([A[:, 0], D[:, 1:]]), study.y, study.se)
    fit = sm.WLS(study.y, A, weights=1 / (tau2 + study.se**2)).fit()
    plot, year = np.unique(study.plot, return_inverse=True)[1], study.season - 2014
    parts = []
    for labels in (plot, year, np.arange(len(study))):
        robust = fit.get_robustcov_results("cluster", groups=labels, use_correction=False)
        G = len(np.unique(labels))
        parts.append(robust.cov_params()[0, 0] * G / (G - 1))
    assert found.slope == pytest.approx(fit.params[0], rel=1e-8)
    assert found.se == pytest.approx(np.sqrt(max(parts[0] + parts[1] - parts[2], parts[2])), rel=1e-6)
    assert found.dof == 6
    assert found.high - found.slope == pytest.approx(stats.t.ppf(0.975, 6) * found.se)
    assert "7 clusters: weak inference" in found.note


def test_weather_slopes_are_clustered_by_year():
    import statsmodels.api as sm

    study = made_study(plots=15, years=12, seed=2)
    found = {slope.driver: slope for slope in weather_slopes(study)}
    assert set(found) == {"air_t", "precip"}
    assert found["air_t"].dof == 11
    assert found["air_t"].low < -2.0 < found["air_t"].high
    soil = study.drivers(0)[:, 0]
    within = soil - np.array([soil[study.season == s].mean() for s in study.season])
    A = np.column_stack([study.drivers(0)[:, 1], within, np.ones(len(study))])
    from matryo.phenology.models import between_variance

    w = 1 / (between_variance(A[:, :2], study.y, study.se) + study.se**2)
    robust = (
        sm.WLS(study.y, A, weights=w).fit().get_robustcov_results("cluster", groups=study.season, use_correction=False)
    )
    assert found["air_t"].se == pytest.approx(np.sqrt(robust.cov_params()[0, 0] * 12 / 11), rel=1e-6)
    assert "weak" not in found["air_t"].note


def test_one_soil_temperature_for_all_plots_leaves_only_the_years():
    study = made_study(plots=9, years=11, shared_soil=True)
    found = soil_slope(study)
    assert "regression of 11 year means" in found.method
    assert (found.dof, found.note) == (9, "t(9)")
    from matryo.phenology.models import between_variance, weights_of

    x, w = study.drivers(0)[:, 0], weights_of(study.se, between_variance(study.drivers(0)[:, :1], study.y, study.se))
    years = np.unique(study.season)
    means = [np.average(study.y[study.season == s], weights=w[study.season == s]) for s in years]
    twin = stats.linregress([x[study.season == s][0] for s in years], means)
    assert found.slope == pytest.approx(twin.slope)
    assert found.se == pytest.approx(twin.stderr)


def test_intervals_of_the_soil_slope_cover_the_truth():
    """A hundred and fifty studies here; bench/phenology.py runs a thousand."""
    covered, width, plain = [], [], []
    for seed in range(150):
        study = made_study(plots=50, years=6, seed=seed)
        found = soil_slope(study)
        covered.append(found.low <= -1.5 <= found.high)
        width.append(found.high - found.low)
        x, y = (
            v - np.array([v[study.season == s].mean() for s in study.season]) for v in (study.drivers(0)[:, 0], study.y)
        )
        plots = np.unique(study.plot)
        twin = stats.linregress(*([v[study.plot == p].mean() for p in plots] for v in (x, y)))
        plain.append(2 * stats.t.ppf(0.975, len(plots) - 2) * twin.stderr)
    assert 0.91 <= np.mean(covered) <= 1.0
    assert np.mean(width) <= 1.5 * np.mean(plain)


def test_row_errors_would_not_cover():
    """Why clusters: with errors that take every row as independent, the same studies are missed far too often."""
    missed = 0
    for seed in range(150):
        study = made_study(plots=50, years=6, seed=seed, plot_sd=4.0)
        x = study.drivers(0)[:, 0]
        fit = stats.linregress(x, study.y)
        missed += abs(fit.slope + 1.5) > stats.t.ppf(0.975, len(x) - 2) * fit.stderr
    assert missed > 0.15 * 150
