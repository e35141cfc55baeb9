"""The server: every page and its twin, what it refuses, and that nothing gets out of its pages."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.sae.dashboard.planted import DEAD, NESTED, SCRIPT, SEVEN

from matryo import cli
from matryo.sae.dashboard import pages
from matryo.sae.dashboard.server.app import make_app
from matryo.sae.dashboard.server.notes import Notes
from matryo.sae.dashboard.server.site import Site

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


def test_exports_hold_the_table(client, index):
    import io

    from pyarrow import parquet

    answer = client.get(f"{ONE}/latents/export.parquet?where=level%3D1&sort=latent")
    table = parquet.read_table(io.BytesIO(answer.content))
    assert table["latent"].to_pylist() == list(range(4, 12))
    assert table["density"].to_pylist() == index.saes[NESTED].stats["density"][4:].tolist()
    lines = client.get(f"{ONE}/latents/export.csv?sort=latent").text.splitlines()
    assert len(lines) == 13
    one = client.get(f"{ONE}/latents/7/export.json").json()
    assert one["maxActApprox"] == pytest.approx(max(max(a["values"]) for a in one["activations"]), abs=1e-6)
    assert one["frac_nonzero"] == index.saes[NESTED].stats["density"][7]
    assert client.get(f"{ONE}/latents/export.exe").json()["error"].startswith("unknown kind of table")


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
    code, _ = run(capsys, "sae", "index", trained, "--runs", tmp_path, "--tokens", 200)
    assert code == 130
    (folder,) = [path for path in tmp_path.iterdir() if not path.is_symlink()]
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
