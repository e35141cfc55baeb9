"""Real data: AT-Neu, a mown meadow in Austria, 9 MODIS pixels, 2002-2012 (see docs/phenology/data.md).

The file is not part of this repository. It is looked for at $MATRYO_AT_NEU (the file or its folder), else beside the
repository at ../shared/data/at-neu.
"""

import os
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares
from scipy.special import expit

from matryo import cli
from matryo.phenology.curves import curve, evaluate_many
from matryo.phenology.fit import FitConfig, fit_curves
from matryo.phenology.fit.many import bounds
from matryo.phenology.series import ColumnConfig, Problems, pack_series, read_table

NAME = "fluxnet_AT-Neu_8day.csv"
PLACE = Path(os.environ.get("MATRYO_AT_NEU", Path(__file__).parents[3] / "shared" / "data" / "at-neu"))
FILE = PLACE / NAME if PLACE.is_dir() else PLACE

pytestmark = pytest.mark.skipif(
    not FILE.is_file(), reason=f"the AT-Neu file is not at {FILE}: set MATRYO_AT_NEU to it to run this test"
)
SCALE = [0.1, 0.1, 10, 0.05, 10, 0.05]
COLUMNS = ColumnConfig(plot="group", date="t", ndvi="EVI", weight="w")


@pytest.fixture(scope="module")
def fitted():
    table = read_table(FILE)
    series = pack_series(table, COLUMNS, Problems())
    return table, series, fit_curves(series.t, series.y, series.w, FitConfig())


def weighted_rmse(series, y):
    return np.sqrt(np.nansum(series.w * (series.y - y) ** 2, axis=1) / series.w.sum(axis=1))


def test_no_pixel_year_is_worse_than_the_beck_fit_in_the_file(fitted):
    table, series, found = fitted
    assert len(series) == 99
    ours = weighted_rmse(series, evaluate_many(curve("beck"), found.parameters, np.nan_to_num(series.t)))
    theirs = table["EVI.Beck"].to_numpy()[np.maximum(series.rows - 2, 0)]
    theirs = weighted_rmse(series, np.where(series.rows > 0, theirs, np.nan))
    assert (ours <= theirs * (1 + 1e-9)).sum() == 99


def test_twenty_bounded_scipy_fits_are_no_better(fitted):
    _, series, found = fitted
    lo, hi = bounds(curve("beck"), FitConfig(), series.window)
    rng, good = np.random.default_rng(0), 0
    for i in range(99):
        used = series.w[i] > 0
        t, y, root = series.t[i, used], series.y[i, used], np.sqrt(series.w[i, used])

        def residuals(p, t=t, y=y, root=root):
            return root * (y - p[0] - p[1] * (expit(p[3] * (t - p[2])) + expit(-p[5] * (t - p[4])) - 1))

        def slopes(p, t=t, root=root):
            up, down = expit(p[3] * (t - p[2])), expit(-p[5] * (t - p[4]))
            rise, fall = p[1] * up * (1 - up), p[1] * down * (1 - down)
            columns = (np.ones_like(t), up + down - 1, -p[3] * rise, (t - p[2]) * rise, p[5] * fall, (p[4] - t) * fall)
            return -root[:, None] * np.stack(columns, 1)

        best = np.inf
        for _ in range(20):
            start = rng.uniform([0, 0.1, 40, -3.9, 180, -3.9], [0.4, 0.8, 180, -0.9, 330, -0.9])
            start[[3, 5]] = np.exp(start[[3, 5]])
            solved = least_squares(residuals, start, slopes, bounds=(lo, hi), x_scale=SCALE, max_nfev=60)
            best = min(best, 2 * solved.cost)
        good += np.sqrt(found.cost[i]) <= 1.001 * np.sqrt(best)
    assert good == 99


def test_mown_and_edge_pegged_years_are_flagged_and_the_slope_is_of_eleven_years(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit = f"phenology fit {FILE} --plot group --date t --ndvi EVI --weight w --recipe least-squares"
    assert cli.run(shlex.split(fit)) == 0
    seasons = pd.read_parquet(tmp_path / "runs" / "latest" / "seasons.parquet")
    flagged = seasons[seasons["flags"].str.contains("several_seasons")]
    assert flagged.groupby("season").size().reindex(range(2002, 2013)).min() >= 1  # the meadow is mown every year
    pegged = seasons[seasons["flags"].str.contains("at_bound")]
    assert {2007, 2010} <= set(pegged["season"])
    drivers = f"""phenology drivers runs/latest --soil {FILE} --weather {FILE} --soil-column TS --air-column TA
        --precip-column Prcp --irradiance-column Rs --feature soil_t --feature air_t --target sos --model ols
        --scheme year --window-days 90 --coverage 0.3"""
    assert cli.run(shlex.split(drivers)) == 0
    assert "regression of 11 year means" in capsys.readouterr().out
    slopes = pd.read_parquet(tmp_path / "runs" / "latest" / "slopes.parquet")
    soil = slopes[(slopes["driver"] == "soil_t") & (slopes["definition"] == "")].iloc[0]
    assert soil["dof"] == 9
    assert [round(soil[key], 1) for key in ("slope", "low", "high")] == [
        2.5,
        -9.4,
        14.4,
    ]  # as docs/phenology/data.md says
    assert soil["note"] == "t(9)"
    assert cli.run(shlex.split("phenology report runs/latest")) == 0
