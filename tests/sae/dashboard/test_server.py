"""The server: every page and its twin, what it refuses, and that nothing gets out of its pages."""

import copy
import csv
import io
import json
import math
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from starlette.testclient import TestClient
from tests.sae.dashboard.planted import DEAD, NESTED, SCRIPT, SEVEN

from matryo import cli
from matryo.sae.dashboard import pages
from matryo.sae.dashboard.pages.charts import curve, histogram, number, percent, scatter
from matryo.sae.dashboard.pages.passages import shade
from matryo.sae.dashboard.pages.render import bar_links
from matryo.sae.dashboard.server.app import make_app
from matryo.sae.dashboard.server.listen import listen
from matryo.sae.dashboard.server.notes import Notes
from matryo.sae.dashboard.server.site import Site
from matryo.sae.dashboard.share.neuronpedia import neuronpedia
from matryo.sae.dashboard.share.tables import table_bytes

ONE = f"/sae/{NESTED}"
PATHS = [
    "/",
    ONE,
    f"{ONE}/latents",
    f"{ONE}/latents?where=level%3D1&sort=entropy",
    f"{ONE}/latents/{SEVEN}",
    f"{ONE}/latents/{SEVEN}?tab=quantiles",
    f"{ONE}/latents/{SEVEN}/card",
    f"{ONE}/latents/{SEVEN}/neighbours",
    f"{ONE}/latents/{SEVEN}/together",
    f"{ONE}/latents/{DEAD}",
    f"{ONE}/latents/{DEAD}/together",
    f"{ONE}/levels",
    f"{ONE}/map?where=token:7",
    "/search?q=the+sea",
    "/search?q=%3Cscript%3E",
    "/compare",
    f"/pair?a={NESTED}&i=2&b={NESTED}&j=7",
    f"{ONE}/chosen?of=2,7",
    f"{ONE}/latents/{SEVEN}/stitched",
    f"{ONE}/latents/{SEVEN}?scale=linear",
    f"{ONE}/latents?sort=level,-density",
    f"/prompt?sae={NESTED}",
    f"/steer?sae={NESTED}&latent=7",
    "/runs",
    "/lists",
    "/help",
]


@pytest.fixture(scope="module")
def client(index, trained):
    return TestClient(make_app(Site(index, trained.parent)), base_url="http://127.0.0.1:8765", follow_redirects=False)


def twin(path):
    place, _, asked = path.partition("?")
    return ("/index" if place == "/" else place) + ".json" + (f"?{asked}" if asked else "")


@pytest.mark.parametrize("path", PATHS)
def test_pages_are_whole_and_have_a_twin(client, path):
    page = client.get(path, headers={"x-part": "1"})
    assert page.status_code == 200
    assert not re.search(r"\bstyle=|<style|onclick=|onerror=|javascript:", page.text)
    outside = re.findall(r'(?:src|href|action)="((?:https?:)?//[^"]*)"', page.text)
    assert not outside
    assert "<script>alert" not in page.text.replace("</span>", "").replace("<span", "")
    assert "undefined" not in page.text.lower()
    values = client.get(twin(path))
    assert values.headers["content-type"] == "application/json"
    assert isinstance(values.json(), dict)
    for answer in (page, values):
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert re.match(r"app;dur=[\d.]+$", answer.headers["server-timing"])


def test_text_of_the_corpus_is_shown_and_not_run(client):
    page = client.get(f"{ONE}/latents/{SCRIPT}?before=12&after=12").text
    plain = re.sub(r"</?span[^>]*>", "", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in plain
    assert "book &lt;b&gt;" in page
    assert "<b>" not in page


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        (f"{ONE}/latents/12", 404, "latent 12 is not of planted-nested; expected 0 to 11"),
        (f"{ONE}/latents/99999999999999999999", 404, "is not of"),
        (f"{ONE}/latents/x", 404, "is no page"),
        ("/sae/planted-nestd", 404, "did you mean &#39;planted-nested&#39;"),
        ("/sae/..%2f..%2fetc%2fpasswd", 404, ""),
        ("/static/..%2f..%2fpyproject.toml", 404, "is no page"),
        ("/static/../server/app.py", 404, "is no page"),
        (f"{ONE}/latents?where=densty%3E1", 400, "did you mean"),
        (f"{ONE}/latents?page=99", 400, "page is 99; expected 1 to 1"),
        (f"{ONE}/latents?page=%00", 400, "expected a whole number"),
        (f"{ONE}/levels?cosine=nan", 400, "expected a number from -1 to 1"),
        (f"{ONE}/latents/7?tab=zzz", 400, "unknown tab"),
        ("/prompt?text=hello", 400, "started without --no-model"),
        (f"/prompt?text={'x' * 9000}", 400, "expected at most 8,192"),
        ("/steer?latent=1,zz&text=a", 400, "expected numbers of latents"),
        ("/runs?run=../../etc", 400, "unknown run"),
        ("/nothing", 404, "is no page"),
    ],
)
def test_bad_addresses_get_a_clear_page(client, path, status, words):
    answer = client.get(path)
    assert answer.status_code == status
    assert words in answer.text
    assert "Traceback" not in answer.text
    if status == 400:
        assert client.get(twin(path)).json()["error"]


def test_every_answer_forbids_what_a_page_does_not_need(client):
    for path, headers in (("/", {}), ("/nothing", {}), ("/static/app.css", {}), ("/", {"host": "evil.example"})):
        told = client.get(path, headers=headers).headers
        rules = dict(rule.strip().partition(" ")[::2] for rule in told["content-security-policy"].split(";"))
        assert rules == {
            "default-src": "'self'",
            "img-src": "'self' data:",
            "object-src": "'none'",
            "base-uri": "'none'",
            "form-action": "'self'",
            "frame-ancestors": "'self'",
        }
        assert told["x-content-type-options"] == "nosniff"
        assert told["referrer-policy"] == "no-referrer"
        assert told["cross-origin-resource-policy"] == "same-origin"


def test_its_own_names_are_served_however_they_are_written(client):
    for host in ("LOCALHOST:8765", "[::1]:8765", "127.0.0.1", "localhost:1"):
        assert client.get("/help", headers={"host": host}).status_code == 200
    note = {"sae": NESTED, "latent": "7", "label": ""}
    assert client.post("/notes", data=note, headers={"origin": "https://127.0.0.1:8765"}).status_code == 200
    own = {"origin": "http://127.0.0.1:8765"}
    assert client.post("/notes", content=iter([b"sae=x"]), headers=own).status_code == 413, "of unknown length"
    for length in ("-5", "x", "1e3"):
        assert client.post("/notes", content=b"", headers={**own, "content-length": length}).status_code == 413


def test_the_name_one_listens_at_is_served_too(index, monkeypatch):
    served = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: served.append((self.config.app, sockets[0])))
    options = SimpleNamespace(host="127.0.0.2", port=0, model=False)
    listen(index, index.folder, options, lambda *_, **told: served.append(told["url"]))
    url, (app, taken) = served
    with taken:
        assert url == f"http://127.0.0.2:{taken.getsockname()[1]}/"
    for base, status in (
        (url, 200),
        ("http://localhost", 200),
        ("http://127.0.0.3", 421),
        ("http://evil.example", 421),
    ):
        assert TestClient(app, base_url=base).get("/help").status_code == status


def test_what_is_drawn_is_to_scale_and_escaped():
    assert [shade(v, 1.0) for v in (-1, 0, 0.01, 1 / 9, 0.112, 0.9, 1)] == [0, 0, 1, 1, 2, 9, 9]
    assert shade(1, 0) == 0
    asked = [dict(parse_qsl(urlsplit(link).query)) for link in bar_links("/a", 4, 2.0)]
    assert [(a["from"], a.get("to"), a["tab"]) for a in asked] == [
        ("0", "0.5", "random"),
        ("0.5", "1", "random"),
        ("1", "1.5", "random"),
        ("1.5", None, "random"),
    ]
    assert [percent(s) for s in (0.01234, 1.0, None, math.nan)] == ["1.23 %", "100 %", "–", "–"]
    numbers = (1234567, 0.00123456, 1e-7, None, math.inf, 12.345)
    assert [number(v) for v in numbers] == ["1,234,567", "0.00123", "0", "–", "–", "12.3"]
    evil = "<b>'\"&"
    counts = [0, 9, 99]
    drawn = str(histogram(counts, 1.0, 4.0, evil, [evil] * 3))
    heights = [float(h) for h in re.findall(r'<rect[^>]* height="([\d.]+)"', drawn)]
    assert heights[0] == 0 and heights[1] / heights[2] == pytest.approx(math.log(10) / math.log(100), abs=1e-3)
    assert re.findall(r"<title>(.*?)</title>", drawn) == ["1 – 2: 0", "2 – 3: 9", "3 – 4: 99"]
    linear = [
        float(h) for h in re.findall(r'<rect[^>]* height="([\d.]+)"', str(histogram(counts, 1, 4, "x", log=False)))
    ]
    assert linear[1] / linear[2] == pytest.approx(9 / 99, abs=1e-3)
    points = str(scatter([(0, 0, evil, evil, evil), (1, 2, "novel", "", evil)], evil, evil))
    curves = str(curve([(evil, [0, 1, 4], [3.0, 1.0, 2.0], 0)], evil))
    for svg in (drawn, points, curves):
        assert "<b>" not in svg and evil not in svg
        assert len(re.findall("&lt;b&gt;&#39;&#34;&amp;", svg)) >= 2
    (line,) = re.findall(r'points="([^"]*)"', curves)
    (x0, y0), (x1, y1), (x2, y2) = ([float(v) for v in p.split(",")] for p in line.split())
    assert (x1 - x0) / (x2 - x0) == pytest.approx(1 / 4, abs=1e-2)
    assert (y1 - y2) / (y1 - y0) == pytest.approx(1 / 2, abs=1e-2)
    assert y0 < y2 < y1


def test_the_map_has_every_latents_numbers(client, index):
    points = np.frombuffer(client.get(f"{ONE}/map.bin").content, "<f4").reshape(12, 5)
    stats = index.saes[NESTED].stats
    assert points[:, 0].tolist() == stats["x"].tolist() and points[:, 1].tolist() == stats["y"].tolist()
    np.testing.assert_allclose(10.0 ** points[:, 2], np.maximum(stats["density"], 1e-9), rtol=1e-4)
    assert points[:, 3].tolist() == stats["level"].tolist()
    (other,) = index.saes[NESTED].told["matches"]
    assert points[:, 4].tolist() == index.saes[NESTED].match(other)["cosine"].tolist()


def test_strangers_are_refused(client):
    for headers, status in (
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example:8765"}, 421),
        ({"host": ""}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ):
        assert client.get("/", headers=headers).status_code == status
    note = {"sae": NESTED, "latent": "7", "label": "x"}
    assert client.post("/notes", data=note).status_code == 403
    assert client.post("/notes", data=note, headers={"origin": "http://127.0.0.1:9999"}).status_code == 403
    assert client.delete("/").status_code == 405
    assert (
        client.post("/notes", content=b"x" * 10_000_000, headers={"origin": "http://127.0.0.1:8765"}).status_code == 413
    )


def test_notes_are_kept_found_and_checked(client, index):
    headers = {"origin": "http://127.0.0.1:8765"}
    note = {"sae": NESTED, "latent": "7", "label": "<i>the</i> seven's", "tags": "digits, done", "note": "a note"}
    saved = client.post("/notes", data=note, headers=headers)
    assert saved.json() == {"label": "<i>the</i> seven's", "tags": ["digits", "done"], "note": "a note"}
    page = client.get(f"{ONE}/latents/7").text
    assert "&lt;i&gt;the&lt;/i&gt; seven&#39;s" in page
    assert "<i>" not in page
    assert client.get("/search.json?q=seven").json()["labels"][0]["latent"] == 7
    assert client.get(f"{ONE}/latents.json?where=tag:done").json()["count"] == 1
    assert client.get("/search.json?q=%22%27%28%29%3B*").status_code == 200
    client.post("/notes", data=note | {"label": "=cmd()"}, headers=headers)
    assert [h["label"] for h in Notes(index.folder / "notes.sqlite").history(NESTED, 7)][:2] == [
        "=cmd()",
        note["label"],
    ]
    assert ",'=cmd()," in client.get(f"{ONE}/latents/export.csv").text
    for bad in ({"latent": "99"}, {"latent": "x"}, {"sae": "none"}, {"label": "x" * 300}):
        assert client.post("/notes", data=note | bad, headers=headers).status_code == 400
    client.post("/notes", data=note | {"label": "", "tags": "", "note": ""}, headers=headers)
    assert client.get("/search.json?q=seven").json()["labels"] == [], "what is no longer said is no longer found"


def test_exports_hold_the_table(client, index):
    from pyarrow import parquet

    answer = client.get(f"{ONE}/latents/export.parquet?where=level%3D1&sort=latent")
    table = parquet.read_table(io.BytesIO(answer.content))
    assert table["latent"].to_pylist() == list(range(4, 12))
    assert table["density"].to_pylist() == index.saes[NESTED].stats["density"][4:].tolist()
    lines = client.get(f"{ONE}/latents/export.csv?sort=latent").text.splitlines()
    assert len(lines) == 13
    one = client.get(f"{ONE}/latents/7/export.json").json()
    assert one["maxActApprox"] == pytest.approx(max(max(a["values"]) for a in one["activations"]), abs=1e-6)
    sae = index.saes[NESTED]
    assert one["frac_nonzero"] == sae.stats["density"][7]
    counts, values = one["freq_hist_data_bar_heights"], one["freq_hist_data_bar_values"]
    assert sum(counts) == sae.stats["firings"][7]
    assert values == pytest.approx([(i + 0.5) * one["maxActApprox"] / 50 for i in range(50)], abs=1e-5)
    for sign, end in (("pos", "top"), ("neg", "low")):
        assert one[f"{sign}_values"] == pytest.approx(sae.logits(end)[7].tolist())
        assert one[f"{sign}_str"] == [index.corpus.piece(int(i)) for i in sae.logits(f"{end}_token")[7]]
    for act in one["activations"]:
        assert act["values"][act["maxValueTokenIndex"]] > 0 and act["maxValue"] == max(act["values"])
    assert client.get(f"{ONE}/latents/export.exe").json()["error"].startswith("unknown kind of table")


def test_no_text_of_a_csv_is_a_formula(index):
    for first in "=+-@\t\r":
        labels = {7: {"label": f"{first}1", "tags": [f"{first}2", "y"]}}
        body, _ = table_bytes(index.saes[NESTED], np.array([7, 0]), "csv", labels)
        heads, seven, other = csv.reader(io.StringIO(body.decode(), newline=""))
        told = dict(zip(heads, seven, strict=True))
        assert (told["label"], told["tags"], told["top_piece"]) == (f"'{first}1", f"'{first}2, y", "7")
        assert dict(zip(heads, other, strict=True))["label"] == ""


def test_a_latent_is_no_neighbour_of_itself(index):
    """Nor where another row is the very same, or where its own is 0 and has no direction."""
    sae = copy.copy(index.saes[NESTED])
    sae.units = np.array(index.saes[NESTED].units)
    sae.units[3], sae.units[DEAD] = sae.units[SEVEN], 0
    for latent in (SEVEN, DEAD, 0):
        one = neuronpedia(sae, latent)
        cosines = sae.units @ sae.units[latent]
        others = [i for i in np.argsort(-cosines, kind="stable") if i != latent][:10]
        assert one["topkCosSimIndices"] == others
        assert one["topkCosSimValues"] == pytest.approx(cosines[others].tolist())


def test_what_is_copied_as_python_runs(client, index):
    import html

    for path, name in ((f"{ONE}/latents/{SEVEN}", "activations"), (f"{ONE}/latents", "table")):
        (code,) = re.findall(r'data-copy="([^"]*)"', client.get(path).text)
        names = {}
        exec(html.unescape(code).replace("\\n", "\n"), names)
        sae = index.saes[NESTED]
        wanted = sae.firings(SEVEN)[1] if name == "activations" else sae.stats
        assert repr(names[name].tolist()) == repr(wanted.tolist())  # nan is nan here


def test_older_versions_of_a_note_and_chosen_latents_are_shown(client, index):
    headers = {"origin": "http://127.0.0.1:8765"}
    for label in ("first <b>", "second"):
        note = {"sae": NESTED, "latent": "5", "label": label, "tags": "", "note": ""}
        assert client.post("/notes", data=note, headers=headers).status_code == 200
    page = client.get(f"{ONE}/latents/5").text
    assert "2 versions" in page
    assert "first &lt;b&gt;" in page
    view = client.get(f"{ONE}/chosen.json?of=2,7,10").json()
    assert [chip["latent"] for chip in view["chips"]] == [2, 7, 10]
    top = index.saes[NESTED].stats["top_token"][[2, 7, 10]]
    assert {t["piece"]: t["latents"] for t in view["tokens"]} == {
        index.corpus.piece(int(i)): int((top == i).sum()) for i in set(top.tolist())
    }
    assert client.get(f"{ONE}/chosen?of=12").status_code == 404
    assert client.get(f"{ONE}/chosen?of=x").status_code == 400


def test_numbers_lead_to_latents(client):
    assert client.get(f"/search?q=7&sae={NESTED}").headers["location"] == f"{ONE}/latents/7"
    assert client.get(f"{ONE}/random").status_code == 303


def test_no_template_names_another_host():
    for path in Path(pages.__file__).parent.rglob("*.html"):
        assert not re.search(r"https?://(?!www\.w3\.org)", path.read_text(encoding="utf-8")), path


def run(capsys, *arguments):
    code = cli.run(list(map(str, arguments)))
    return code, capsys.readouterr()


def test_serve_finds_the_index_of_a_run(trained, indexed, capsys):
    for place in (trained, indexed):
        code, said = run(capsys, "sae", "serve", place, "--check")
        assert code == 0, said.err
        assert str(indexed) in said.out


def test_bad_starts_are_told_in_one_line(trained, indexed, tmp_path, capsys):
    from tests.sae.dashboard.planted import make_run

    alone = make_run(tmp_path / "runs")
    code, said = run(capsys, "sae", "serve", alone)
    assert (code, said.err.count("\n")) == (2, 1)
    assert f"matryo sae index {alone}" in said.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, said = run(capsys, "sae", "serve", indexed, "--port", taken.getsockname()[1])
    assert code == 2
    assert "is in use: give another --port" in said.err
    code, said = run(capsys, "sae", "serve", tmp_path / "nothing")
    assert (code, said.err.count("\n")) == (2, 1)
    cfg = json.loads((alone / "run.json").read_text())
    cfg["outputs"]["lm"] = "smollm2"
    (alone / "run.json").write_text(json.dumps(cfg))
    code, said = run(capsys, "sae", "index", trained, alone, "--runs", tmp_path / "runs")
    assert code == 2
    assert "another model" in said.err


def test_a_deleted_run_and_altered_weights_are_named(index, tmp_path, monkeypatch):
    from matryo.sae.dashboard.server.live import Live

    live = Live(index)
    monkeypatch.setitem(index.saes[NESTED].told, "folder", "../gone")
    with pytest.raises(ValueError, match="was deleted or moved"):
        live.sae(NESTED)
    monkeypatch.undo()
    monkeypatch.setitem(index.saes[NESTED].told, "weights_sha256", "0")
    with pytest.raises(ValueError, match="holds other weights than those that were indexed"):
        live.sae(NESTED)
    monkeypatch.setitem(index.manifest["about"], "lm", "no/such-model")
    broken = Live(index)
    with pytest.raises(ValueError, match="needs the language model, which is missing"):
        broken.lm()


def test_serving_imports_no_torch(indexed):
    code = (
        "import sys; from pathlib import Path; from matryo.sae.dashboard.index.opened import open_index;"
        "from matryo.sae.dashboard.server.app import make_app; from matryo.sae.dashboard.server.site import Site;"
        f"make_app(Site(open_index(Path({str(indexed)!r})))); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_interrupted_index_is_resumed_by_its_folder(trained, tmp_path, capsys, monkeypatch):
    from matryo.sae.dashboard.index import build

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "invert", stop)
    code, said = run(capsys, "sae", "index", trained, "--runs", tmp_path, "--tokens", 200)
    assert code == 130
    (folder,) = [path for path in tmp_path.iterdir() if not path.is_symlink()]
    assert f"go on with: matryo sae index --resume {folder}" in said.out
    monkeypatch.undo()
    code, said = run(capsys, "sae", "serve", folder, "--check")
    assert code == 2
    assert "is not finished" in said.err
    code, said = run(capsys, "sae", "index", "--resume", folder)
    assert code == 0, said.err
    code, said = run(capsys, "sae", "serve", folder, "--check")
    assert code == 0, said.err
    assert "207 tokens" in said.out
    code, said = run(capsys, "sae", "index", "--resume", folder)
    assert code == 2
    assert "is finished" in said.err
