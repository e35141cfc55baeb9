"""Drivers: sums over the right days, and none over any later day."""

import numpy as np
import pandas as pd
import pytest

from matryo.phenology.features import Daily, FeatureConfig, build_features, earliest, note_uncovered, read_daily
from matryo.phenology.series import Problems

FIRST, DAYS = np.datetime64("2013-10-01"), 900
KEYS = pd.DataFrame({"plot": ["a", "b", "a"], "season": [2014, 2014, 2015]})
ALL = FeatureConfig()


def made(seed=0):
    rng = np.random.default_rng(seed)
    names = {"soil_t": (2, "plot", {"a": 0, "b": 1}), "air_t": (1, None, {"all": 0}), "precip": (1, None, {"all": 0})}
    names["irradiance"] = (1, None, {"all": 0})
    return {n: Daily(FIRST, rng.normal(4, 5, (size, DAYS)), by, units) for n, (size, by, units) in names.items()}


def day(season, doy):
    return int((np.datetime64(f"{season}-01-01") - FIRST).astype(int)) + doy - 1


def test_drivers_are_sums_over_the_days_before_the_cut_off():
    daily, cutoff = made(), 120
    found = build_features(KEYS, daily, cutoff, ALL)
    for i, (plot, season) in enumerate(zip(KEYS["plot"], KEYS["season"], strict=True)):
        stop = day(season, cutoff)
        air = daily["air_t"].values[0]
        window = slice(stop - 60, stop)
        assert found["soil_t"][i] == pytest.approx(daily["soil_t"].values["ab".index(plot), window].mean())
        assert found["air_t"][i] == pytest.approx(air[window].mean())
        assert found["precip"][i] == pytest.approx(daily["precip"].values[0, window].sum())
        assert found["gdd"][i] == pytest.approx(np.maximum(air[day(season, 1) : stop] - 5, 0).sum())
        last = air[stop - 120 : stop]
        assert found["chill"][i] == pytest.approx(((last >= 0) & (last <= 5)).sum())


def test_nothing_on_or_after_the_cut_off_has_any_influence():
    """The leakage test: every day from each season's cut-off to its end is changed, and no driver notices."""
    before = build_features(KEYS, made(), 120, ALL)
    changed = made()
    for one in changed.values():
        for season in (2014, 2015):
            one.values[:, day(season, 120) : day(season, 260)] = np.nan
    pd.testing.assert_frame_equal(before, build_features(KEYS, changed, 120, ALL))
    changed["air_t"].values[:, day(2014, 119)] += 100
    after = build_features(KEYS, changed, 120, ALL)
    assert not np.isclose(after["air_t"][0], before["air_t"][0])  # the day before does count


def test_the_cut_off_is_the_earliest_date():
    assert earliest(np.array([140.9, np.nan, 133.7])) == 133
    with pytest.raises(ValueError, match="no season has a date"):
        earliest(np.array([np.nan]))


def test_gaps_are_scaled_or_missing_and_told():
    daily = made()
    daily["precip"].values[0, day(2014, 100) : day(2014, 104)] = np.nan
    daily["air_t"].values[0, day(2015, 70) : day(2015, 90)] = np.nan
    found = build_features(KEYS, daily, 120, ALL)
    rain = daily["precip"].values[0, day(2014, 60) : day(2014, 120)]
    assert found["precip"][0] == pytest.approx(np.nanmean(rain) * 60)
    assert np.isnan(found["air_t"][2])
    assert not np.isnan(found["air_t"][0])
    problems = Problems()
    note_uncovered(KEYS, found, 120, "sos", problems)
    assert [str(p) for p in problems.found] == [
        "weather, plot a: too few days of data before day 120 for air_t, gdd, chill of sos in 2015: "
        "these seasons are left out"
    ]


@pytest.mark.parametrize("step", [1, 8, 16])
def test_a_value_stands_for_the_days_up_to_the_next(step):
    days = pd.date_range("2014-01-01", periods=20, freq=f"{step}D")
    table = pd.DataFrame({"date": days.astype(str), "air": np.arange(20.0)}, index=range(2, 22)).drop(index=9)
    daily = read_daily(table, {"air_t": "air"}, KEYS, Problems(), "weather")["air_t"]
    series = daily.values[0]
    assert len(series) == 20 * step
    for k in range(20):
        here = series[k * step : (k + 1) * step]
        assert np.isnan(here).all() if k == 7 else (here == k).all()


def test_units_that_are_missing_are_told():
    soil = pd.DataFrame({"plot": ["a"] * 3, "date": pd.date_range("2014-01-01", periods=3), "soil_t": 1.0})
    problems = Problems()
    daily = read_daily(soil, {"soil_t": "soil_t"}, KEYS, problems, "soil")["soil_t"]
    assert daily.rows(KEYS).tolist() == [0, -1, 0]
    assert str(problems.found[0]) == "soil, plot b: nothing for these plots: their drivers are missing"
    with pytest.raises(ValueError, match="soil has none of the seasons' plots"):
        read_daily(soil.assign(plot="z"), {"soil_t": "soil_t"}, KEYS, Problems(), "soil")
    with pytest.raises(ValueError, match="unknown soil column 'soil'"):
        read_daily(soil, {"soil_t": "soil"}, KEYS, Problems(), "soil")


def test_what_cannot_have_been_measured_is_missing_and_told():
    """FLUXNET's -9999 is no temperature, and a column of kelvins is an error, not a driver."""
    table = pd.DataFrame({"date": pd.date_range("2014-01-01", periods=5), "air_t": [4.0, -9999, 6, 7, 8]})
    table.index, problems = range(2, 7), Problems()
    daily = read_daily(table, {"air_t": "air_t"}, KEYS, problems, "weather")["air_t"]
    np.testing.assert_array_equal(daily.values, [[4.0, np.nan, 6, 7, 8]])
    assert [str(one) for one in problems.found] == [
        "weather, row 3: air_t outside -90 to 70, such as -9999: taken as missing"
    ]
    with pytest.raises(ValueError, match=r"air_t outside -90 to 70, such as 277.15, in every row; expected °C"):
        read_daily(table.assign(air_t=277.15 + np.arange(5)), {"air_t": "air_t"}, KEYS, problems, "weather")
