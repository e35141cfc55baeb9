"""The fit against scipy, its bounds and flags, and what its covariance promises."""

import numpy as np
import pytest
from scipy.optimize import least_squares
from tests.phenology.cases import BECK, PARAMETERS, TRUTH, WINDOW, draw, mixed_truths, visits

from matryo.phenology.curves import CURVES, curve, evaluate, evaluate_gradients
from matryo.phenology.fit import FLAGS, FitConfig, fit_curves
from matryo.phenology.fit.many import bounds

ONE = FitConfig(threads=1)


def twin(form, t, y, w, start):
    """Plain bounded least squares by scipy from one start."""
    lo, hi = bounds(form, FitConfig(), WINDOW)
    free = lo < hi
    root = np.sqrt(w)

    def residuals(q):
        p = np.where(free, 0.0, lo)
        p[free] = q
        return root * (y - evaluate(form, p, t))

    inside = np.clip(start[free], lo[free] + 1e-6, hi[free] - 1e-6)
    return least_squares(
        residuals, inside, bounds=(lo[free], hi[free]), x_scale=np.abs(inside) + 0.01, xtol=1e-12, ftol=1e-12
    )


@pytest.mark.parametrize("name", CURVES)
def test_no_worse_than_scipy_from_the_truth(name):
    form, p = curve(name), np.array(PARAMETERS[name])
    rng, t = np.random.default_rng(3), np.linspace(40, 340, 47)
    y = evaluate(form, p, t) + rng.normal(0, 0.015, (6, 47))
    w = rng.uniform(0.3, 2, (6, 47))
    found = fit_curves(t, y, w, FitConfig(curve=name, threads=1))
    for i in range(6):
        assert found.cost[i] <= 2 * twin(form, t, y[i], w[i], p).cost * 1.0005


def test_parameters_and_covariance_are_scipy_s():
    rng, t = np.random.default_rng(4), visits(21)
    y, w = draw(mixed_truths(15, rng), t, rng), rng.uniform(0.5, 2, (15, 21))
    found = fit_curves(t, y, w, ONE)
    for i in np.flatnonzero(found.flags == 0):
        solved = twin(BECK, t, y[i], w[i], found.parameters[i])
        np.testing.assert_allclose(found.parameters[i], solved.x, rtol=2e-4)
        J = evaluate_gradients(BECK, found.parameters[i : i + 1], t[None])[0]
        cov = np.linalg.inv(J.T @ (J * w[i][:, None])) * found.cost[i] / (21 - 6)
        np.testing.assert_allclose(found.covariance[i], cov, rtol=1e-6)
    assert (found.dof == 15).all()


def test_weights_are_repeated_visits():
    rng, t = np.random.default_rng(5), visits(15)
    y = draw(TRUTH[None], t, rng)[0]
    w = np.where(np.arange(15) % 3 == 0, 2.0, 1.0)
    order = np.sort(np.concatenate([np.arange(15), np.arange(0, 15, 3)]))
    heavy, twice = fit_curves(t, y[None], w[None], ONE), fit_curves(t[order], y[order][None], None, ONE)
    np.testing.assert_allclose(heavy.parameters, twice.parameters, rtol=1e-6)
    assert heavy.cost == pytest.approx(twice.cost)


def test_padding_missing_values_and_zero_weights_change_nothing():
    rng, t = np.random.default_rng(6), visits(14)
    y = draw(TRUTH[None], t, rng)
    plain = fit_curves(t, y, None, ONE)
    wide = np.concatenate([t, [np.nan, np.nan, 300.0]]), np.concatenate([y[0], [9.0, np.nan, np.nan]])[None]
    padded = fit_curves(wide[0], wide[1], np.r_[np.ones(14), 0.0, 0.0, 1.0][None], ONE)
    np.testing.assert_allclose(
        plain.parameters, padded.parameters, rtol=1e-10
    )  # sums of another length round otherwise
    np.testing.assert_array_equal(plain.span, padded.span)


def test_threads_and_company_change_no_bit():
    rng, t = np.random.default_rng(7), visits(21)
    y = draw(mixed_truths(900, rng), t, rng)
    one, many = fit_curves(t, y, None, ONE), fit_curves(t, y, None, FitConfig(threads=3))
    np.testing.assert_array_equal(one.parameters, many.parameters)
    np.testing.assert_array_equal(one.parameters[321], fit_curves(t, y[321:322], None, ONE).parameters[0])


@pytest.mark.parametrize(("loss", "most"), [("huber", 0.3), ("bisquare", 0.2)])
def test_robust_fits_shrug_off_clouds(loss, most):
    rng, t = np.random.default_rng(8), visits(21)
    clean = draw(np.repeat(TRUTH[None], 200, 0), t, rng)
    cloudy = clean.copy()
    cloudy[np.arange(200), rng.integers(5, 16, 200)] -= 0.3
    errors = {}
    for name in ("none", loss):
        found = fit_curves(t, cloudy, None, FitConfig(robust=name))
        errors[name] = np.median(np.abs(found.parameters[:, 1] - 0.4))
    assert errors[loss] < most * errors["none"] + 0.008


@pytest.mark.parametrize("loss", ["huber", "bisquare"])
def test_robust_errors_hold_on_clean_data(loss):
    rng, t = np.random.default_rng(9), visits(40)
    found = fit_curves(t, draw(np.repeat(TRUTH[None], 1200, 0), t, rng), None, FitConfig(robust=loss))
    ratio = found.parameters[:, 2].std() / np.sqrt(np.mean(found.standard_errors[:, 2] ** 2))
    assert 0.9 < ratio < 1.12


def test_beck_s_fast_rows_are_the_general_ones():
    from matryo.phenology.fit.descent import beck_rows, rows_of

    rng, t = np.random.default_rng(12), visits(17)
    y, w = rng.normal(0.5, 0.2, 17), rng.uniform(0, 2, 17)
    for p in [*mixed_truths(20, rng), np.array([0.1, 1.0, -400.0, 0.5, 900.0, 0.5])]:
        fast, plain = np.zeros((8, 17)), np.zeros((8, 17))
        costs = beck_rows(p, t, y, w, fast, fast[6]), rows_of(0, p, t, y, w, plain, plain[6])
        assert costs[0] == pytest.approx(costs[1], rel=1e-12)
        np.testing.assert_allclose(fast, plain, rtol=1e-10, atol=1e-13)


# --- flags


def flags_of(t, y, **config):
    found = fit_curves(np.asarray(t, float), np.atleast_2d(y), None, FitConfig(threads=1, **config))
    return found, found.flag_names()[0].split(",")


def test_too_few_points_are_not_fitted():
    t = visits(21)
    y = evaluate(BECK, TRUTH, t)
    found, names = flags_of(t[:6], y[:6])
    assert names == ["too_few_points"]
    assert np.isnan(found.parameters).all()
    assert flags_of(t[::3], y[::3])[1] != ["too_few_points"]  # seven visits, six parameters
    assert flags_of(t, np.full(21, np.nan))[1] == ["too_few_points"]


def test_a_season_cut_off_has_its_peak_outside():
    t = np.linspace(90, 185, 15)
    y = evaluate(BECK, np.array([0.3, 0.4, 190, 0.05, 300, 0.05]), t)
    assert "peak_outside_data" in flags_of(t, y + np.random.default_rng(0).normal(0, 0.003, 15))[1]


def test_a_jump_is_at_the_bound_of_the_rate():
    t = visits(21)
    assert "at_bound" in flags_of(t, np.where((t > 135) & (t < 240), 0.7, 0.3))[1]


def test_a_mown_meadow_has_several_seasons_and_a_noisy_plateau_has_not():
    t = np.linspace(60, 320, 40)
    twice = 0.2 + 0.4 * np.exp(-(((t - 130) / 25) ** 2)) + 0.4 * np.exp(-(((t - 230) / 25) ** 2))
    assert "several_seasons" in flags_of(t, twice)[1]
    rng = np.random.default_rng(1)
    y = draw(mixed_truths(2000, rng), visits(21), rng)
    several = fit_curves(visits(21), y).flags & FLAGS["several_seasons"][0]
    assert np.mean(several > 0) < 0.005


def test_flat_and_constant_data_are_flagged_and_not_dropped():
    t = visits(21)
    for y in (np.full(21, 0.4), 0.4 + np.random.default_rng(2).normal(0, 1e-9, 21)):
        found, names = flags_of(t, y)
        assert names != [""]
        assert len(found.parameters) == 1
        assert not np.isinf(found.covariance).any()


def test_too_few_steps_are_not_convergence():
    t = visits(21)
    assert "not_converged" in flags_of(t, draw(TRUTH[None], t, np.random.default_rng(3))[0], fit_steps=1)[1]


def test_gu_on_sparse_visits_says_that_it_cannot_tell_parameters_apart():
    rng, t = np.random.default_rng(11), visits(12)
    found = fit_curves(t, draw(np.repeat(TRUTH[None], 40, 0), t, rng), None, FitConfig(curve="gu"))
    assert np.mean(found.flags > 0) > 0.5


def test_southern_seasons_go_past_new_year():
    p = TRUTH + np.array([0, 0, 160, 0, 160, 0])
    t = np.linspace(240, 480, 25)
    found = fit_curves(t, evaluate(BECK, p, t)[None], None, ONE, window=(182.0, 547.0))
    np.testing.assert_allclose(found.parameters[0], p, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": np.linspace(290, 90, 9)}, "series 0 go backwards"),
        ({"w": -np.ones((2, 9))}, "a weight is -1; expected 0 or more"),
        ({"t": visits(8)}, r"expected \(m,\) or \(n, m\)"),
        ({"window": (1.0, 9.0)}, "at least 30 days"),
    ],
)
def test_what_cannot_be_fitted_is_told(change, message):
    given = {"t": visits(9), "y": np.zeros((2, 9)), "w": None, "window": WINDOW} | change
    with pytest.raises(ValueError, match=message):
        fit_curves(given["t"], given["y"], given["w"], ONE, given["window"])


@pytest.mark.parametrize("change", [{"fit_steps": 0}, {"rate_max": 9.0}, {"base_min": 2.0}, {"threads": -1}])
def test_wrong_settings_are_told(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} is .*; expected"):
        FitConfig(**change)
