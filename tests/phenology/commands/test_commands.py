"""From tables to a report through the front door, and what it says to tables that cannot be used."""

import json
import re
import shlex

import numpy as np
import pandas as pd
import pytest

from matryo import cli
from matryo.phenology.synthetic import SyntheticConfig, make_site
from matryo.spine.run import read_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables of a small site, some of them spoilt."""
    folder = tmp_path_factory.mktemp("tables")
    site = make_site(SyntheticConfig(plots=8, years=3), seed=5)
    ndvi = site.ndvi.assign(date=site.ndvi["date"].dt.strftime("%Y-%m-%d"))
    ndvi.to_csv(folder / "ndvi.csv", index=False)
    site.soil.to_parquet(folder / "soil.parquet", index=False)
    site.weather.to_csv(folder / "weather.csv", index=False)
    ndvi.rename(columns={"ndvi": "NDVI"}).to_csv(folder / "named.csv", index=False)
    ndvi.assign(ndvi=(ndvi["ndvi"] * 10_000).round()).to_csv(folder / "scaled.csv", index=False)
    ndvi[ndvi["date"] < "2015"].to_csv(folder / "one.csv", index=False)
    ndvi[ndvi["date"] < "2016"].to_csv(folder / "two.csv", index=False)
    site.weather[site.weather["date"] >= "2014-06-01"].to_csv(folder / "late.csv", index=False)
    messy = ndvi.astype({"ndvi": object}).copy()
    messy.loc[3, "ndvi"] = "cloudy"
    messy.loc[5, "date"] = "31/05/2014"
    messy.loc[9, "ndvi"] = 7
    messy.loc[11, ["plot", "date"]] = messy.loc[10, ["plot", "date"]]
    messy.loc[20, "date"] += "T10:00:00+02:00"
    messy.loc[messy["plot"] == "P05", "ndvi"] = np.nan
    lone = messy[(messy["plot"] == "P03") & messy["date"].str.startswith("2015")].index[1:]
    messy.drop(index=lone).to_csv(folder / "messy.csv", index=False)
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)

    def go(line):
        code = cli.run(shlex.split(line))
        said = capsys.readouterr()
        return code, said.out, said.err

    return go


TABLES = "--soil soil.parquet --weather weather.csv"


def test_from_tables_to_a_report(run, folder):
    assert run("phenology fit ndvi.csv")[0] == 0
    fit = read_run(folder / "runs" / "latest")
    code, said, _ = run(f"phenology drivers runs/latest {TABLES} --target sos --model ols --model ridge --plot-folds 2")
    assert code == 0
    assert re.search(r"plot_mean +\d.* +n/a +n/a", said)
    assert "weak inference" in said
    drivers = read_run(folder / "runs" / "latest")
    assert drivers.parents == (str(fit.path),)
    code, said, _ = run("phenology report runs/latest --json")
    assert code == 0
    page_path = json.loads(said.splitlines()[-1])["report"]
    with open(page_path, encoding="utf-8") as file:  # noqa: PTH123
        page = file.read()
    for heading in (
        "In short",
        "Data",
        "Fits",
        "Flags",
        "Dates by definition",
        "Models",
        "Drivers",
        "Slopes",
        "Methods",
    ):
        assert re.search(rf"<h2[^>]*>{heading}</h2>", page), heading
    assert not re.search(
        r'(?:src|href)="(?!#|data:)|url\((?!#)|<script|@import', page
    )  # asks for nothing from anywhere
    for said in ("range over 3 folds", "soil_t", "n/a", "t(n − p)", "shap", "not known to us"):
        assert said in page, said
    scores = pd.read_parquet(drivers.path / "scores.parquet").set_index(["scheme", "model"])
    shown = f"{scores.loc[('both', 'ridge'), 'rmse']:#.3g}"
    assert shown in page
    slope = pd.read_parquet(drivers.path / "slopes.parquet").iloc[0]
    assert f"{slope['slope']:+.2f} days per °C" in page
    for name in ("seasons", "scores", "slopes", "shap"):
        assert (folder / "runs" / "latest" / f"{name}.csv").exists()
        assert (folder / "runs" / "latest" / f"{name}.parquet").exists()
    predictions = pd.read_csv(drivers.path / "predictions.csv").query("scheme == 'both' and model == 'ridge'")
    rmse = np.sqrt(np.mean((predictions["observed"] - predictions["predicted"]) ** 2))
    assert scores.loc[("both", "ridge"), "rmse"] == pytest.approx(rmse)


def test_a_fit_alone_has_a_report_too(run):
    assert run("phenology fit two.csv --robust none --curve gaussian")[0] == 0
    assert run("phenology report runs/latest")[0] == 0


def test_long_lists_are_cut_between_items_and_every_column_of_panels_has_its_days(run, folder):
    """A row's number cut in half would be another row's; panels above an empty place are the last of their column."""
    ndvi = pd.read_csv(folder / "ndvi.csv")
    ndvi = ndvi[ndvi["plot"].isin(["P01", "P02", "P03"])].astype({"ndvi": object})
    ndvi.loc[ndvi.index[20:80], "ndvi"] = "cloud"
    ndvi.to_csv(folder / "cut.csv", index=False)
    assert run("phenology fit cut.csv")[0] == 0
    assert run("phenology report runs/latest")[0] == 0
    page = (folder / "runs" / "latest" / "report.html").read_text(encoding="utf-8")
    rows = re.search(r"ndvi is no number[^<]*</td><td[^>]*>([\d ]+) …<", page)
    assert rows and set(map(int, rows[1].split())) <= set(range(22, 82))
    panels = page[page.index("<svg") : page.index("</svg>")]
    titles = re.findall(r">P\d\d, \d{4}<", panels)
    days = [text for text in re.findall(r">(\d+)</text>", panels) if text == "200"]
    assert len(days) == min(4, len(titles)) and len(titles) % 4


def test_flags_name_whole_seasons():
    from matryo.phenology.report.page import _cut

    assert _cut("12 " * 40) == "12 " * 24 + "12 …"


def test_a_messy_table_is_told_row_by_row_and_the_rest_is_fitted(run, folder):
    code, said, _ = run("phenology fit messy.csv")
    assert code == 0
    for note in (
        "messy.csv, row 22: date: some dates have a time zone",
        "messy.csv, row 7: date is no date, such as '31/05/2014'",
        "messy.csv, row 5: ndvi is no number, such as 'cloudy'",
        "messy.csv, row 11: ndvi outside [-1, 1], such as 7",
        "messy.csv, rows 12, 13, plot P01: several visits of a plot on one day: averaged",
        "plot P05: no usable NDVI at all",
        "plot P03: fewer than the 7 visits that beck needs in a season (season 2015)",
    ):
        assert note in said, note
    seasons = pd.read_parquet(folder / "runs" / "latest" / "seasons.parquet")
    assert len(seasons) == 24
    assert (seasons["flags"] == "too_few_points").sum() == 4
    assert seasons["sos_doy"].notna().sum() == 20


def test_weather_that_begins_late_leaves_out_its_seasons_only(run):
    assert run("phenology fit ndvi.csv")[0] == 0
    line = "phenology drivers runs/latest --soil soil.parquet --weather late.csv --target sos --model ols --scheme year"
    code, said, _ = run(line)
    assert code == 0
    assert re.search(
        r"note: weather, plots P01.*: too few days of data before day \d+ for air_t, precip.* of sos in 2014", said
    )
    assert said.count("note: weather") == 1
    assert "2 years" in said  # 2015 and 2016 are left, and the slope says how little that is


def test_a_cut_off_after_the_event_and_transects_that_are_none_are_told(run, folder):
    assert run("phenology fit ndvi.csv")[0] == 0
    line = f"phenology drivers runs/latest {TABLES} --target sos --model ols --scheme year"
    code, said, _ = run(f"{line} --cutoff 300")
    assert code == 0
    assert re.search(r"note: drivers: windows end before day 300, after the sos of (\d+) of \1 seasons", said)
    fitted = pd.read_parquet(read_run(folder / "runs" / "latest").parents[0] + "/seasons.parquet")
    early = int(np.floor(fitted["sos_doy"].min()))
    assert "note: drivers" not in run(f"{line} --cutoff {early}")[1]
    plain = pd.read_csv(folder / "ndvi.csv").drop(columns="transect")
    plain.to_csv(folder / "plain.csv", index=False)
    assert run("phenology fit plain.csv")[0] == 0
    before = sorted((folder / "runs").iterdir())
    code, _, said = run(f"{line} --scheme plot --plots-by transect")
    assert code == 2
    assert "no column transect to leave out; name it in the fit with --transect" in said
    assert sorted((folder / "runs").iterdir()) == before


CASES = {
    "phenology fit named.csv": "unknown named.csv column 'ndvi': did you mean 'NDVI'?",
    "phenology fit none.csv": "none.csv: No such file or directory",
    "phenology fit scaled.csv": "no row with a plot, a date and a usable ndvi",
    "phenology fit ndvi.csv --curve bek": 'Did you mean "beck"?',
    "phenology fit ndvi.csv --recipe plot": "unknown recipe 'plot': did you mean 'plots'?",
    "phenology fit ndvi.csv --quality-weight good": "expected WORD=WEIGHT",
    "phenology drivers runs/none": "runs/none is no run folder",
    "phenology drivers runs/latest --exclude atbound": "unknown flag to exclude 'atbound': did you mean 'at_bound'?",
    "phenology drivers runs/latest --feature soil": "unknown feature 'soil': did you mean 'soil_t'?",
    "phenology drivers runs/latest --explain gp --model ols": "explain is 'gp', which is not among the models ols",
    "phenology demo --years 2": "expected at least 6 and 3",
    "phenology raster ndvi.csv": "no known ending",
}


@pytest.mark.parametrize("line", CASES)
def test_an_error_is_one_line_that_names_value_and_fix(run, line, folder):
    before = sorted((folder / "runs").glob("*")) if (folder / "runs").exists() else []
    code, _, said = run(line)
    assert code == 2
    assert CASES[line] in said
    assert said.count("\n") == 1
    assert sorted((folder / "runs").glob("*") if (folder / "runs").exists() else []) == before  # no half-made run


def test_scaled_integers_get_a_hint(run):
    code, said, _ = run("phenology fit scaled.csv")
    assert code == 2
    assert "give --ndvi-scale 0.0001" in said
    assert run("phenology fit scaled.csv --ndvi-scale 0.0001")[0] == 0


def test_missing_tables_and_too_few_years_are_told(run):
    assert run("phenology fit one.csv")[0] == 0
    code, _, said = run("phenology drivers runs/latest --model ols")
    assert code == 2
    assert "give one with --soil FILE" in said
    code, _, said = run(f"phenology drivers runs/latest {TABLES} --model ols")
    assert code == 2
    assert "expected at least 8 in 2" in said
