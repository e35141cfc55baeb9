"""Season metrics against closed forms and brute force; their errors against differences, the bound and a bootstrap."""

import numpy as np
import pytest
from scipy import stats
from tests.phenology.cases import BECK, PARAMETERS, TRUTH, WINDOW, bound, draw, mixed_truths, visits

from matryo.phenology.curves import CURVES, curve, evaluate
from matryo.phenology.fit import FitConfig, fit_curves
from matryo.phenology.season import METRICS, measure
from matryo.phenology.season.kernels import metrics_of

NAMES = [metric.name for metric in METRICS]
each_curve = pytest.mark.parametrize("name", CURVES)


def metrics(form, p):
    values, G = np.empty(len(NAMES)), np.empty((len(NAMES), len(p)))
    metrics_of(form.code, np.asarray(p, float), *WINDOW, values, G)
    return dict(zip(NAMES, values, strict=True)), G


def test_one_steep_limb_has_the_closed_forms():
    """Where the limbs do not overlap, dates follow from the logistic: see the docs."""
    r, sos, eos = 0.25, 120.0, 260.0
    found, _ = metrics(BECK, [0.2, 0.5, sos, r, eos, r])
    expected = {
        "sos_der_doy": sos,
        "sos_trs20_doy": sos + np.log(0.2 / 0.8) / r,
        "sos_trs50_doy": sos,
        "sos_trs60_doy": sos + np.log(0.6 / 0.4) / r,
        "sos_gu_doy": sos - 2 / r,
        "stabilisation_gu_doy": sos + 2 / r,
        "sos_kl_doy": sos - np.log(5 + 2 * np.sqrt(6)) / r,
        "maturity_kl_doy": sos + np.log(5 + 2 * np.sqrt(6)) / r,
        "eos_der_doy": eos,
        "eos_kl_doy": eos + np.log(5 + 2 * np.sqrt(6)) / r,
        "senescence_kl_doy": eos - np.log(5 + 2 * np.sqrt(6)) / r,
        "downturn_gu_doy": eos - 2 / r,
        "pos_doy": (sos + eos) / 2,
        "peak_ndvi": 0.7,
        "amplitude_ndvi": 0.5,
        "los_der_days": eos - sos,
        "los_trs20_days": eos - sos + 2 * np.log(4) / r,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.02), name


@each_curve
def test_metrics_are_those_of_a_fine_grid(name):
    form, p = curve(name), np.array(PARAMETERS[name])
    h = 0.005
    t = np.arange(1.0, 366.0, h)
    f = evaluate(form, p, t)
    top = int(np.argmax(f))
    slope = np.gradient(f, h)
    bend = np.gradient(slope, h)
    found, _ = metrics(form, p)
    base = {"gu": (p[0], p[0] + p[1] - p[2]), "klosterman": (f[0], f[-1])}.get(name, (p[0], p[0]))
    assert found["pos_doy"] == pytest.approx(t[top], abs=0.02)
    assert found["peak_ndvi"] == pytest.approx(f[top], abs=1e-8)
    assert found["amplitude_ndvi"] == pytest.approx(f[top] - base[0], abs=1e-8)
    sides = {"sos": (slice(0, top + 1), base[0], 1), "eos": (slice(top, None), base[1], -1)}
    for event, (part, low, sign) in sides.items():
        x, y = t[part], f[part]
        at = int(np.argmax(sign * slope[part]))
        assert found[f"{event}_der_doy"] == pytest.approx(x[at], abs=0.02)
        assert found[f"{event}_gu_doy"] == pytest.approx(x[at] - (y[at] - low) / slope[part][at], abs=0.02)
        for share in (20, 50, 60):
            above = np.flatnonzero(y >= low + share / 100 * (f[top] - low))
            crossing = x[above[0]] if sign > 0 else x[above[-1]]
            assert found[f"{event}_trs{share}_doy"] == pytest.approx(crossing, abs=0.02)
        K = bend / (1 + slope**2) ** 1.5
        change = np.gradient(np.convolve(K, np.ones(41) / 41, "same"), h)  # a fifth of a day's mean tames the rounding
        change = sign * change[part]
        outer = slice(200, at) if sign > 0 else slice(at, -200)
        assert found[f"{event}_kl_doy"] == pytest.approx(x[outer][int(np.argmax(change[outer]))], abs=0.5)
        assert found[f"los_{'der'}_days"] == pytest.approx(found["eos_der_doy"] - found["sos_der_doy"])
    inside = (t >= found["sos_trs20_doy"]) & (t <= found["eos_trs20_doy"])
    assert found["integral_ndvi_days"] == pytest.approx(np.sum(f[inside] - base[0]) * h, rel=1e-3)


@each_curve
def test_gradients_are_the_differences_of_metrics(name):
    form, p = curve(name), np.array(PARAMETERS[name], dtype=float)
    _, G = metrics(form, p)
    for j in range(len(p)):
        if form.parameters[j] in form.held:
            continue
        h = 1e-4 * max(abs(p[j]), 0.01)
        step = np.eye(len(p))[j] * h
        up, down = metrics(form, p + step)[0], metrics(form, p - step)[0]
        for i, metric in enumerate(NAMES):
            slope = (up[metric] - down[metric]) / (2 * h)
            if np.isfinite(slope):
                assert G[i, j] == pytest.approx(slope, rel=2e-3, abs=2e-4 * np.nanmax(np.abs(G[i]))), metric


def test_errors_are_those_of_a_parametric_bootstrap():
    rng, t = np.random.default_rng(0), visits(21)
    p = np.repeat(np.array([[0.3, 0.4, 140.0, 0.12, 255.0, 0.09]]), 1500, 0)
    found = fit_curves(t, draw(p, t, rng, 0.008))
    drawn = measure(BECK, found.parameters, found.covariance, WINDOW)
    exact = bound(p[:1], t, 0.008)
    for name in NAMES:
        spread = np.nanstd(drawn[name])
        assert spread == pytest.approx(exact.error(name)[0], rel=0.12), name
        assert np.nanmedian(drawn.error(name)) == pytest.approx(exact.error(name)[0], rel=0.12), name


def test_no_season_in_the_window_is_nan_and_not_a_wrong_date():
    found, _ = metrics(BECK, [0.3, 0.4, 340.0, 0.05, 366.0, 0.005])
    assert np.isnan(found["eos_der_doy"])
    late, _ = metrics(BECK, [0.3, 0.4, 360.0, 0.02, 366.0, 0.01])
    assert np.isnan(late["pos_doy"]) or late["pos_doy"] < 366
    missing = measure(BECK, np.full((2, 6), np.nan), np.full((2, 6, 6), np.nan), WINDOW)
    assert np.isnan(missing.values).all()
    assert np.isnan(missing.errors).all()


# --- the bars, on fewer series than bench/phenology.py runs


@pytest.mark.parametrize("m", [21, 12])
def test_start_of_season_is_at_the_cramer_rao_bound(m):
    rng, t = np.random.default_rng(m), visits(m)
    truth = np.repeat(TRUTH[None], 2500, 0)
    found = fit_curves(t, draw(truth, t, rng))
    dates = measure(BECK, found.parameters, found.covariance, WINDOW)
    limit = bound(TRUTH[None], t)
    error = dates["sos_der_doy"] - measure(BECK, TRUTH[None], np.zeros((1, 6, 6)), WINDOW)["sos_der_doy"][0]
    assert np.sqrt(np.mean(error**2)) <= 1.1 * limit.error("sos_der_doy")[0]
    clear = found.flags == 0
    reach = stats.t.ppf(0.975, m - 6)
    for name in ("sos_der_doy", "pos_doy", "eos_der_doy"):
        true = measure(BECK, TRUTH[None], np.zeros((1, 6, 6)), WINDOW)[name][0]
        covered = np.abs(dates[name] - true) <= reach * dates.error(name)
        assert 0.925 <= covered[clear].mean() <= 0.975, name


@pytest.mark.parametrize("m", [21, 12])
def test_over_mixed_truths_few_are_flagged_and_errors_are_as_bound(m):
    rng, t = np.random.default_rng(m + 1), visits(m)
    truth = mixed_truths(2500, rng)
    found = fit_curves(t, draw(truth, t, rng), None, FitConfig())
    dates, limit = measure(BECK, found.parameters, found.covariance, WINDOW), bound(truth, t)
    assert np.mean(found.flags > 0) <= 0.03
    assert np.median(np.abs(dates["sos_der_doy"] - limit["sos_der_doy"]) / limit.error("sos_der_doy")) <= 0.75
