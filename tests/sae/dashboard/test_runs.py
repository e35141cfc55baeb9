"""Run folders and their curves, and uPlot as it is served: whole, small, and the version that was vendored."""

import gzip
import json
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient
from tests.sae.dashboard.planted import NESTED

from matryo.sae.dashboard import server
from matryo.sae.dashboard.server.app import make_app
from matryo.sae.dashboard.server.site import Site
from matryo.sae.dashboard.views.query import Query
from matryo.sae.dashboard.views.runs import POINTS, read_curves, runs_view, thin
from matryo.spine.fetch import file_sha256
from matryo.spine.run import RunFolder, read_metrics

STATIC = Path(server.__file__).parents[1] / "static"
VENDOR = STATIC / "vendor"


def test_the_vendored_library_is_the_one_in_the_manifest():
    told = json.loads((VENDOR / "MANIFEST.json").read_text(encoding="utf-8"))
    files = {name: sha256 for one in told.values() for name, (_, sha256) in one["files"].items()}
    assert {path.name for path in VENDOR.iterdir()} == {*files, "MANIFEST.json"}
    assert {name: file_sha256(VENDOR / name) for name in files} == files
    root = Path(__file__).parents[3]
    notice = (root / "NOTICE").read_text(encoding="utf-8")
    for name, one in told.items():
        assert f"from the npm package {name}" in notice
        assert one["version"] in notice
        assert one["version"] in (VENDOR / "uPlot.iife.min.js").read_text(encoding="utf-8")[:200]
    licence = (VENDOR / "uPlot.LICENSE").read_text(encoding="utf-8").split()
    assert " ".join(licence) in " ".join(notice.split())


def test_scripts_and_styles_are_small_and_name_no_other_host():
    files = [path for path in STATIC.rglob("*") if path.suffix in (".js", ".css")]
    assert {"app.js", "curves.js", "map.js", "uPlot.iife.min.js"} <= {path.name for path in files}
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) <= 60_000
    for path in files:
        # A library's own home in its first line is no request.
        text = re.sub(r"\A/\*!.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"https?://(?!www\.w3\.org)", text), path


@pytest.fixture
def runs(tmp_path):
    """A run of two SAEs by key, one that names the SAE in its lines, and one that is being written."""
    with RunFolder.create(tmp_path, "both", "sae train", {}) as run:
        for step in range(1, 2_001):
            run.log(step=step, **{"a/fvu": 1 / step, "b/fvu": 2 / step, "a/l0": float(step == 1_234)})
        run.finish({})
    with RunFolder.create(tmp_path, "named", "sae meta", {}) as run:
        for sae, level in (("one", 0.5), ("two", 0.25)):
            for step in (1, 2, 3):
                run.log(step=step, sae=sae, fvu=level / step)
        run.finish({})
    writing = RunFolder.create(tmp_path, "writing", "sae train", {})
    for step in (1, 2):
        writing.log(step=step, loss=float(step))
    yield tmp_path, writing
    writing.close()


def name(runs, part):
    return next(path.name for path in runs.iterdir() if part in path.name)


def test_curves_are_what_was_logged(runs):
    folder, _ = runs
    view = runs_view(folder, Query({"run": f"{name(folder, 'both')},{name(folder, 'named')}"}))
    assert [chart["what"] for chart in view["charts"]] == ["fvu", "l0"]
    assert [one["of"] for one in view["series"]] == ["a", "b", "one", "two"]
    fvu = view["charts"][0]
    assert fvu["log"] is True
    assert [curve["series"] for curve in fvu["curves"]] == [0, 1, 2, 3]
    for curve, scale in zip(fvu["curves"], (1, 2, 0.5, 0.25), strict=True):
        np.testing.assert_allclose(curve["y"], scale / np.array(curve["x"]))
    assert len(fvu["curves"][0]["x"]) <= POINTS
    # The one step at which l0 is not 0 is drawn, whatever is left out; and l0 has no logarithm.
    assert view["charts"][1]["log"] is False
    assert dict(zip(view["charts"][1]["curves"][0]["x"], view["charts"][1]["curves"][0]["y"], strict=True))[1_234] == 1


def test_between_two_steps_nothing_is_left_out(runs):
    folder, _ = runs
    view = runs_view(folder, Query({"run": name(folder, "both"), "from": "1230", "to": "1240.5"}))
    curve = view["charts"][0]["curves"][0]
    assert curve["x"] == list(range(1_229, 1_242))  # and the one on either side
    assert (view["from"], view["to"]) == (1230, 1240.5)
    assert runs_view(folder, Query({"run": name(folder, "both"), "from": "5000"}))["charts"] == []
    for bad, message in (
        ({"from": "3", "to": "2"}, "in this order"),
        ({"from": "x"}, "expected a number"),
        ({"run": "nothing"}, "unknown run"),
        ({"run": ",".join(map(str, range(9)))}, "at most 8"),
    ):
        with pytest.raises(ValueError, match=message):
            runs_view(folder, Query(bad))


def test_thinned_curves_keep_their_extremes():
    generator = np.random.default_rng(0)
    y = generator.normal(size=5_000)
    y[1234], y[4321] = 50, -50
    x, kept = thin(list(range(5_000)), y.tolist())
    assert len(x) <= 400
    assert {50, -50, y[0], y[-1]} <= set(kept)
    assert all(y[i] == v for i, v in zip(x, kept, strict=True))
    assert x == sorted(x)


def test_a_run_that_is_written_is_read_as_far_as_it_is(runs):
    folder, writing = runs
    state = lambda: {row["name"]: row["status"] for row in runs_view(folder, Query({}))["runs"]}  # noqa: E731
    assert state()[writing.path.name] == "running"
    assert read_curves(writing.path)["loss"] == ([1, 2], [1, 2])
    writing.log(step=3, loss=float("nan"))
    with (writing.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a line that is not whole yet
    assert read_curves(writing.path)["loss"] == ([1, 2], [1, 2])
    before = runs_view(folder, Query({"run": writing.path.name}))["stamp"]
    with (writing.path / "metrics.jsonl").open("a") as file:
        file.write('ss": 7.0, "time": 0, "session": 1}\n')
    view = runs_view(folder, Query({"run": writing.path.name}))
    assert view["stamp"] != before
    assert view["charts"][0]["curves"][0]["x"] == [1, 2, 4]
    writing.finish({})
    assert state()[writing.path.name] == "finished"


def test_readers_never_stand_in_the_way_of_training(runs, index):
    """Pages are asked for from several threads while a run is logged, closed and gone on with, which needs its lock."""
    folder, writing = runs
    app = TestClient(make_app(Site(index, folder)), base_url="http://127.0.0.1")
    writing.close()
    paths = [f"/runs.json?run={writing.path.name}", "/runs", f"/sae/{NESTED}/latents/7", f"/sae/{NESTED}/latents.json"]
    done, seen = threading.Event(), []

    def read():
        while not done.is_set():
            seen.extend((path, app.get(path).status_code) for path in paths)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for session in range(20):
            with RunFolder.reopen(writing.path, {}) as run:
                for step in range(5):
                    run.log(step=3 + 5 * session + step, loss=1.0)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert len(seen) >= 12
    assert {status for _, status in seen} == {200}
    assert len(read_metrics(writing.path)) == 102
    last = app.get(paths[0]).json()["charts"][0]["curves"][0]
    assert last["x"] == [1, 2, *range(3, 103)]


def test_many_bytes_in_an_address_are_refused_in_one_line(indexed):
    from tests.sae.dashboard.browsing import start_server, stop

    base, process = start_server(indexed, "--no-model")
    try:
        for size, words in ((300_000, "expected at most 200,000"), (10_000_000, "expected at most 200,000")):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{base}/prompt?text={'x' * size}")
            assert refused.value.code == 414
            assert words in refused.value.read().decode()
        chinese = urllib.parse.quote("中" * 8_192)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{base}/prompt?text={chinese}&other={chinese}")
        assert "without --no-model" in refused.value.read().decode()  # it was read
        assert urllib.request.urlopen(f"{base}/help").status == 200
    finally:
        stop(process)
