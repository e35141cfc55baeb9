"""Tables of visits: what is read, what cannot be, and where a season begins."""

import numpy as np
import pandas as pd
import pytest

from matryo.phenology.clean import CleanConfig, clean_weights
from matryo.phenology.series import ColumnConfig, Problems, pack_series, read_table


def table(rows, columns=("plot", "date", "ndvi")):
    found = pd.DataFrame(rows, columns=list(columns))
    found.index = range(2, len(found) + 2)
    return found


def pack(rows, columns=("plot", "date", "ndvi"), **config):
    problems = Problems()
    return pack_series(table(rows, columns), ColumnConfig(**config), problems, "t"), [str(p) for p in problems.found]


def test_every_visit_is_in_its_place_whatever_the_order():
    rng = np.random.default_rng(0)
    rows = [
        (p, f"{y}-{m:02d}-15", round(rng.uniform(0, 1), 3)) for p in "ab" for y in (2014, 2016) for m in range(1, 13)
    ]
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    plain, _ = pack(rows)
    mixed, notes = pack(shuffled)
    np.testing.assert_array_equal(plain.y, mixed.y)
    np.testing.assert_array_equal(plain.t, mixed.t)
    assert "dates are not in order: sorted" in notes[0]
    assert plain.keys.to_dict("list") == {"plot": ["a", "a", "b", "b"], "season": [2014, 2016, 2014, 2016]}
    assert plain.t[1, 2] == 31 + 29 + 15  # 15 March of a leap year
    for i in range(4):
        for k in range(12):
            assert shuffled[mixed.rows[i, k] - 2][2] == mixed.y[i, k]


def test_a_southern_season_runs_over_new_year():
    found, _ = pack([("a", "2014-06-30", 0.1), ("a", "2014-07-01", 0.2), ("a", "2015-01-01", 0.3)], hemisphere="south")
    assert found.keys["season"].tolist() == [2013, 2014]
    assert found.t[1].tolist() == [182, 366]
    assert found.window == (182.0, 547.0)


def test_several_visits_a_day_are_averaged_by_weight():
    rows = [("a", "2014-05-01", 0.2, 1.0), ("a", "2014-05-01", 0.5, 2.0), ("a", "2014-05-09", 0.6, 1.0)]
    found, notes = pack(rows, ("plot", "date", "ndvi", "w"), weight="w")
    assert found.y[0, 0] == pytest.approx(0.4)
    assert found.w[0].tolist() == [3.0, 1.0]
    assert notes == ["t, rows 2, 3, plot a: several visits of a plot on one day: averaged"]


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        (
            [("a", "2014-05-01", 0.2), ("a", "31/05/2014", 0.3)],
            "row 3: date is no date, such as '31/05/2014': write it as",
        ),
        ([("a", "2014-05-01", 0.2), ("a", "2014-05-31", "fog")], "row 3: ndvi is no number, such as 'fog'"),
        ([("a", "2014-05-01", 0.2), ("a", "2014-05-31", 1.2)], "row 3: ndvi outside [-1, 1], such as 1.2"),
        ([("a", "2014-05-01", 0.2), (None, "2014-05-31", 0.2)], "row 3: plot is empty"),
        (
            [("a", "2014-05-01T23:00:00+02:00", 0.2), ("a", "2014-05-31", 0.2)],
            "row 2: date: some dates have a time zone",
        ),
        ([("a", "2014-05-01", 0.2), ("b", "2014-05-31", None)], "row 3, plot b: no usable NDVI at all"),
    ],
)
def test_rows_that_cannot_be_used_are_named_and_the_rest_is_kept(rows, note):
    found, notes = pack(rows)
    assert any(note in line for line in notes), notes
    assert found.y[0, 0] == 0.2
    assert found.t[0, 0] == 121  # the date as it is written, whatever its zone


def test_a_plot_without_values_keeps_its_row():
    found, _ = pack([("a", "2014-05-01", 0.2), ("b", "2014-05-31", None)])
    assert found.keys["plot"].tolist() == ["a", "b"]
    assert found.w.sum(axis=1).tolist() == [1, 0]


def test_quality_words_become_weights():
    rows = [("a", f"2014-05-{d:02d}", 0.2, q) for d, q in ((1, "good"), (2, "cloud"), (3, "odd"))]
    found, _ = pack(rows, ("plot", "date", "ndvi", "q"), quality="q", quality_weight=("good=1", "cloud=0.2"))
    assert found.w[0].tolist() == [1.0, 0.2, 1.0]
    with pytest.raises(ValueError, match="quality_weight is 'cloud'; expected WORD=WEIGHT"):
        ColumnConfig(quality_weight=("cloud",))


def test_nothing_usable_or_no_column_is_an_error_that_names_the_flag():
    with pytest.raises(ValueError, match=r"unknown t column 'ndvi': did you mean 'NDVI'.*--ndvi"):
        pack([("a", "2014-05-01", 0.2)], ("plot", "date", "NDVI"))
    with pytest.raises(ValueError, match="no row with a plot, a date and a usable ndvi"):
        pack([("a", "never", 0.2)])


def test_csv_and_parquet_are_the_same_and_other_files_are_refused(tmp_path):
    rows = table([("a", "2014-05-01", 0.2), ("b", "2014-05-02", 0.3)])
    rows.to_csv(tmp_path / "t.csv", index=False)
    rows.to_parquet(tmp_path / "t.parquet", index=False)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.csv"), read_table(tmp_path / "t.parquet"), check_dtype=False)
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00" * 9)
    (tmp_path / "empty.csv").write_text("plot,date\n")
    for name, message in (("bad.csv", "is not UTF-8"), ("empty.csv", "no rows"), ("t.xlsx", "no known ending")):
        with pytest.raises(ValueError, match=message):
            read_table(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.csv")


PLAIN = "plot,date,ndvi\n007,2014-05-01,0.25\n,2014-05-02,0.5\n010,2014-05-03,-0.125\n"


@pytest.mark.parametrize(
    "written",
    [
        PLAIN.encode("utf-8-sig"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", ";").replace(".", ",").encode("utf-8-sig"),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace(",", ", ").replace("plot", " plot ").encode(),
    ],
)
def test_spreadsheets_write_csv_in_many_ways_that_say_the_same(tmp_path, written):
    (tmp_path / "t.csv").write_bytes(written)
    found = read_table(tmp_path / "t.csv")
    assert list(found.columns) == ["plot", "date", "ndvi"]
    assert found["plot"].fillna("none").tolist() == ["007", "none", "010"]  # not 7.0
    assert found["date"].tolist() == ["2014-05-01", "2014-05-02", "2014-05-03"]
    assert pd.to_numeric(found["ndvi"]).tolist() == [0.25, 0.5, -0.125]


def test_a_file_that_is_not_utf_8_says_so(tmp_path):
    for encoding in ("cp1252", "utf-16"):
        (tmp_path / "t.csv").write_bytes("plot,date,ndvi\nWüste,2014-05-01,0.2\n".encode(encoding))
        with pytest.raises(ValueError, match=r"is not UTF-8 .*; save it as CSV UTF-8"):
            read_table(tmp_path / "t.csv")


def test_dates_with_slashes_are_read_where_the_year_is_first():
    found, notes = pack([("a", "2014/05/31", 0.2), ("a", "2014/6/1", 0.3), ("a", "2014-05/30", 0.4)])
    assert found.t[0, :2].tolist() == [151, 152]
    assert found.w.sum() == 2, "mixed marks are no date"
    assert len(notes) == 1 and "row 4: date is no date" in notes[0]


def test_infinite_values_are_named():
    found, notes = pack([("a", "2014-05-01", 0.2), ("a", "2014-05-31", "inf"), ("a", "2014-06-01", "-inf")])
    assert found.w.sum() == 1
    assert notes == ["t, rows 3, 4: ndvi is infinite: taken as missing"]


def test_only_the_spike_is_cleaned_away_and_not_the_flank():
    t = np.arange(12.0)[None] * 10
    y = np.array([[0.3, 0.3, 0.35, 0.6, 0.7, 0.3, 0.7, 0.7, 0.4, 0.3, 0.05, 0.3]])
    w = clean_weights(t, y, np.ones_like(y), CleanConfig(spike=0.25, snow_below=0.1))
    assert np.flatnonzero(w[0] == 0).tolist() == [5, 10]
    assert (clean_weights(t, y, np.ones_like(y), CleanConfig()) == 1).all()
