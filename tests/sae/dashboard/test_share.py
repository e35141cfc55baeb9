"""What is given to others: whole, alone, and the same as the pages."""

import json
import re

import pytest
from tests.sae.dashboard.browsing import Watched
from tests.sae.dashboard.planted import DIGITS, NESTED, SEVEN

from matryo import cli
from matryo.sae.dashboard.share.standalone import page_html, write_file, write_site
from matryo.sae.dashboard.views.latent import latent_view
from matryo.sae.dashboard.views.query import Query


@pytest.fixture(scope="module")
def sae(index):
    return index.saes[NESTED]


def test_one_file_stands_alone(browser, sae, tmp_path):
    path = tmp_path / "latents.html"
    write_file(sae, [DIGITS, SEVEN], path, {SEVEN: {"label": "<b>sevens</b>", "tags": [], "note": ""}})
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert not re.search(r'(?:src|href)="/', page)
    assert "<b>" not in page
    assert "book &lt;b&gt;" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert targets == {f"latent-{DIGITS}", f"latent-{SEVEN}"}
    watched = Watched(browser, "file://")
    watched.page.goto(f"file://{path}")
    assert watched.page.locator("article").count() == 2
    assert float(watched.page.locator(".pk").first.get_attribute("title").split()[0]) > 0
    watched.audit("one file")
    watched.context.close()


def test_a_latent_of_another_sae_is_not_taken_for_the_one_of_its_number(sae, tmp_path):
    """DIGITS is matched with the latent of the same number in the small SAE, which is not in the file."""
    view = latent_view(sae, DIGITS, Query({}))
    assert [m["latent"] for m in view["matches"]] == [DIGITS]
    path = tmp_path / "latents.html"
    write_file(sae, [DIGITS], path, {})
    assert path.read_text(encoding="utf-8").count(f'href="#latent-{DIGITS}"') == 1  # in the list of latents
    list(write_site(sae, [DIGITS], tmp_path / "site", {}))
    body = (tmp_path / "site" / "0000" / f"{DIGITS}.html").read_text(encoding="utf-8")
    assert f'/{DIGITS}.html"' not in body
    assert "<title>&lt;b&gt; &amp; &#34;</title>" in page_html('<b> & "', [])


@pytest.mark.parametrize("count", [0, 501])
def test_a_file_has_a_bound(sae, tmp_path, count):
    with pytest.raises(ValueError, match=f"{count} latents for one file; expected 1 to 500"):
        write_file(sae, [1] * count, tmp_path / "x.html", {})


def test_a_site_has_no_dead_link(sae, tmp_path):
    assert list(write_site(sae, [SEVEN, 0, DIGITS], tmp_path / "site", {})) == [SEVEN, 0, DIGITS]
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) == 5
    for page in pages:
        for target in re.findall(r'href="([^"#]+)"', page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), (page, target)
    with pytest.raises(ValueError, match="is not empty"):
        next(write_site(sae, [1], tmp_path / "site", {}))


def test_a_notebook_shows_the_page(sae):
    html = sae.latent(SEVEN)._repr_html_()
    assert html.startswith("<iframe srcdoc=")
    assert f"Latent {SEVEN}" in html
    assert "<script" not in html
    with pytest.raises(ValueError, match="expected 0 to 11"):
        sae.latent(12)


@pytest.mark.parametrize("form", ["html", "neuronpedia", "csv", "parquet"])
def test_the_command_writes_every_form(indexed, tmp_path, capsys, form):
    out = tmp_path / "out"
    line = ["sae", "share", str(indexed), "--out", str(out), "--form", form, "--where", "level=1 density>0"]
    assert cli.run(line) == 0, capsys.readouterr().err
    assert out.stat().st_size > 200
    assert "7 latents of planted-nested" in capsys.readouterr().out
    if form == "neuronpedia":
        assert {int(one["index"]) for one in json.loads(out.read_text())} == {4, 5, 6, 7, 8, 9, 10}


def test_where_it_is_written(indexed, tmp_path, capsys):
    line = ["sae", "share", str(indexed), "--most", "2", "--out"]
    assert cli.run([*line, str(tmp_path / "new" / "latents.html")]) == 0, capsys.readouterr().err
    assert (tmp_path / "new" / "latents.html").is_file()
    assert cli.run([*line, str(tmp_path / "new")]) == 2
    assert "new is a folder; expected the name of a file to write" in capsys.readouterr().err
