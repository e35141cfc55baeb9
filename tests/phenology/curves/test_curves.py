"""Curves against their formulas written out in NumPy, gradients and jets against differences, and the known bugs."""

import numpy as np
import pytest
from tests.phenology.cases import PARAMETERS

from matryo.phenology.curves import CURVES, curve, evaluate, evaluate_gradients
from matryo.phenology.curves.jets import curvature, jet

T = np.linspace(60, 320, 53)
each_curve = pytest.mark.parametrize("name", CURVES)


def s(x):
    return 1 / (1 + np.exp(-x))


def beck(t, base, amplitude, sos, rsp, eos, rau):
    return base + amplitude * (1 / (1 + np.exp(-rsp * (t - sos))) + 1 / (1 + np.exp(rau * (t - eos))) - 1)


def elmore(t, base, amplitude, sos, rsp, eos, rau, greendown):
    return base + (amplitude - greendown * t) * (s(rsp * (t - sos)) - s(rau * (t - eos)))


def gu(t, base, a1, a2, sos, rsp, eos, rau, c1, c2):
    return base + a1 / (1 + np.exp(-rsp * (t - sos))) ** c1 - a2 / (1 + np.exp(-rau * (t - eos))) ** c2


def klosterman(t, a1, b1, a2, b2, c, sos, rsp, eos, rau, q1, q2, v1, v2):
    x = (t - 183) / 100
    limbs = 1 / (1 + q1 * np.exp(-rsp * (t - sos))) ** v1 - 1 / (1 + q2 * np.exp(-rau * (t - eos))) ** v2
    return a1 * x + b1 + (a2 * x**2 + b2 * x + c) * limbs


def gaussian(t, base, amplitude, peak, rsp, shape1, rau, shape2):
    before, after = (np.maximum(peak - t, 0) * rsp) ** shape1, (np.maximum(t - peak, 0) * rau) ** shape2
    return base + amplitude * np.exp(-before - after)


FORMULAS = {"beck": beck, "elmore": elmore, "gu": gu, "klosterman": klosterman, "gaussian": gaussian}


@each_curve
def test_values_are_the_formulas(name):
    p = np.array(PARAMETERS[name])
    assert len(p) == len(CURVES[name].parameters)
    np.testing.assert_allclose(evaluate(CURVES[name], p, T), FORMULAS[name](T, *p), rtol=0, atol=1e-14)


@each_curve
def test_gradients_are_the_differences_of_values(name):
    form, p = CURVES[name], np.array(PARAMETERS[name])
    if name == "klosterman":
        p[9:11] = 1.3, 0.8  # held in fits, but right all the same
    exact = evaluate_gradients(form, p[None], T[None])[0]
    for j in range(len(p)):
        h = 1e-5 * max(abs(p[j]), 0.01)
        step = np.eye(len(p))[j] * h
        slope = (evaluate(form, p + step, T) - evaluate(form, p - step, T)) / (2 * h)
        np.testing.assert_allclose(exact[:, j], slope, rtol=1e-6, atol=1e-7 * np.abs(slope).max())


@each_curve
def test_jets_are_the_derivatives_in_time(name):
    form, p, h = CURVES[name], np.array(PARAMETERS[name]), 1e-3
    for t in (97.3, 151.0, 243.7, 301.2):
        low, here, high = (np.array(jet(form.code, p, t + d)) for d in (-h, 0.0, h))
        assert here[0] == pytest.approx(evaluate(form, p, np.array([t]))[0], abs=1e-14)
        for n in range(1, 5):  # c[n] = f⁽ⁿ⁾/n!, so c[n]·n is the slope of c[n − 1]
            assert here[n] * n == pytest.approx((high[n - 1] - low[n - 1]) / (2 * h), rel=1e-5, abs=1e-12)
        k = [curvature(tuple(c)) for c in (low, here, high)]
        assert k[1][1] == pytest.approx((k[2][0] - k[0][0]) / (2 * h), rel=1e-5)
        assert k[1][2] == pytest.approx((k[2][1] - k[0][1]) / (2 * h), rel=1e-5)


def test_far_from_the_season_nothing_overflows():
    for name, form in CURVES.items():
        y = evaluate(form, np.array(PARAMETERS[name]), np.array([-30_000.0, 30_000.0]))
        assert np.isfinite(y).all() or name in ("elmore", "klosterman")  # a line in t has no limit, but no NaN either
        assert not np.isnan(evaluate_gradients(form, np.array([PARAMETERS[name]]), np.array([[-9e3, 9e3]]))).any()


# --- formulas that others got wrong: the −1 is inside the bracket, once, with that sign


@pytest.mark.parametrize("name", ["beck", "elmore"])
def test_winter_is_the_baseline_and_summer_the_top(name):
    form, p = CURVES[name], np.array(PARAMETERS[name])
    p[3] = p[5] = 0.3
    if name == "elmore":
        p[6] = 0.0
    winter, summer = evaluate(form, p, np.array([1.0, 366.0])), evaluate(form, p, np.array([198.0]))
    np.testing.assert_allclose(winter, p[0], atol=1e-6)  # without the −1: base + amplitude (phenopix's .doubleLog)
    assert summer[0] == pytest.approx(p[0] + p[1], abs=1e-6)  # +1 (a published page): base + 3·amplitude
    outside = p[0] + p[1] * (s(p[3] * (T - p[2])) + s(-p[5] * (T - p[4]))) - 1  # −1 outside the bracket (phenofit #11)
    assert np.abs(outside - evaluate(form, p, T)).max() > 0.5


def test_a_double_logistic_is_no_gaussian():
    """eo-learn #454: what was called double logistic was an asymmetric Gaussian; only the former has a plateau."""
    p = np.array([0.3, 0.4, 100.0, 0.2, 290.0, 0.2])
    assert np.ptp(evaluate(curve("beck"), p, np.linspace(150, 240, 50))) < 1e-3
    bell = np.array([0.3, 0.4, 195.0, 1 / 95, 2.0, 1 / 95, 2.0])
    assert np.ptp(evaluate(curve("gaussian"), bell, np.linspace(150, 240, 50))) > 0.05


def test_klosterman_s_q_is_a_date_in_disguise():
    p = np.array(PARAMETERS["klosterman"])
    q = p.copy()
    q[9], q[5] = 1.7, p[5] - np.log(1.7) / p[6]
    form = curve("klosterman")
    np.testing.assert_allclose(evaluate(form, p, T), evaluate(form, q, T), atol=1e-13)
    assert form.held == ("q1", "q2")
    assert form.free == 11


def test_wrong_shapes_and_names_are_told():
    with pytest.raises(ValueError, match=r"beck: parameters \(1, 5\).*expected parameters \(n, 6\)"):
        evaluate(curve("beck"), np.zeros(5), T)
    with pytest.raises(ValueError, match="did you mean 'elmore'"):
        curve("elmor")
