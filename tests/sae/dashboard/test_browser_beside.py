"""Flows over runs beside the index: curves while a run goes on, meta-latents and steering by them, stitching."""

from urllib.parse import parse_qs, urlsplit

import pytest
import torch
from tests.sae.dashboard.browsing import Watched, start_server, stop, value, wait_for
from tests.sae.dashboard.planted import DIGITS, FIT_LARGE, NESTED, NINE, SEVEN, SITE, TWIN, basis

from matryo.sae.dashboard.server.live import Live
from matryo.sae.lm import splice
from matryo.spine.run import RunFolder

ONE = f"/sae/{NESTED}"


@pytest.fixture(scope="module")
def live(index):
    return Live(index)


@pytest.fixture
def writing(trained):
    """A run that goes on while the page is open."""
    with RunFolder.create(trained.parent, "going-on", "sae train", {"going": "on"}) as run:
        for step in range(1, 1_001):
            run.log(step=step, **{"one/fvu": 1 / step, "two/fvu": 2 / step, "one/dead": step / 1_000})
        yield run


def readout(at, row=0):
    """Step and numbers of a row of the table under the curves' heading."""
    return at.page.locator("#readout tbody tr").nth(row).locator("td").all_inner_texts()


def test_curves_are_read_zoomed_and_followed(at, writing):
    at.open(f"/runs?run={writing.path.name}")
    at.until("document.getElementById('curves').dataset.drawn === '2'")
    assert at.page.locator("#curves canvas").count() == 2
    assert readout(at) == ["1,000", "0.001", "1"]
    at.audit("runs")
    # The numbers under the pointer are those that were logged at that step, of all curves.
    chart = at.page.locator("[data-what=fvu] .u-over")
    box = chart.bounding_box()
    at.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    step = int(readout(at)[0].replace(",", ""))
    assert abs(step - 500) < 20
    assert float(readout(at)[1]) == pytest.approx(1 / step, rel=1e-3)
    assert float(readout(at, 1)[1]) == pytest.approx(2 / step, rel=1e-3)
    at.shot("curves")
    # Dragging zooms all charts, and the address says to what.
    at.page.mouse.down()
    at.page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 60, steps=5)
    at.page.mouse.up()
    at.until("!!document.getElementById('curves').dataset.zoom")
    low, high = map(int, at.page.evaluate("document.getElementById('curves').dataset.zoom").split())
    assert (abs(low - 500) < 20, abs(high - 600) < 20) == (True, True)
    query = parse_qs(urlsplit(at.page.url).query)
    assert [int(float(query[name][0]) + 0.5) for name in ("from", "to")] == [low, high]
    twin = value(
        at.base, urlsplit(at.page.locator("footer [data-twin]").get_attribute("href"))._replace(netloc="").geturl()
    )
    inside = [x for x in twin["charts"][0]["curves"][0]["x"] if low < x <= high]
    assert inside == list(range(low + 1, high + 1)), "zoomed in, every step is there"
    # By keyboard: one step to the left of the last, and everything again.
    at.page.get_by_role("button", name="All steps").click()
    at.until("document.getElementById('curves').dataset.zoom === ''")
    at.page.locator("[data-what=dead]").focus()
    at.page.keyboard.press("ArrowLeft")
    at.until("document.querySelector('#readout td').textContent === '1,000'")
    at.page.keyboard.press("+")
    at.until("!!document.getElementById('curves').dataset.zoom")
    at.page.keyboard.press("0")
    at.until("document.getElementById('curves').dataset.zoom === ''")
    # A curve is hidden and shown; what is logged meanwhile comes by itself.
    button = at.page.get_by_role("button", name="two", exact=True)
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    writing.log(step=1_001, **{"one/fvu": 0.5, "two/fvu": 0.25, "one/dead": 0.125})
    at.until("document.querySelector('#readout td').textContent === '1,001'")
    assert readout(at) == ["1,001", "0.5", "0.125"]
    writing.finish({})
    at.until("!document.getElementById('following')")
    assert at.page.locator(f"[data-state={writing.path.name!r}]").inner_text() == "finished"


def test_several_runs_are_drawn_together_and_without_scripts(browser, base, trained, writing):
    plain = Watched(browser, base, java_script_enabled=False)
    plain.page.goto(f"{base}/runs?run={writing.path.name}")
    plain.page.get_by_role("link", name=f"add the curves of {trained.name}").click()
    # Without scripts a page tells nobody that it is complete: what must be there is waited for.
    rows, curves = plain.page.locator("#readout tbody tr"), plain.page.locator("figure").first.locator("svg polyline")
    wait_for(lambda: (rows.count(), curves.count()) == (4, 4))
    plain.page.get_by_role("link", name=f"leave out the curves of {writing.path.name}").click()
    wait_for(lambda: (rows.count(), curves.count()) == (2, 2))
    plain.context.close()
    assert not plain.problems, plain.problems


def test_meta_latents_lead_both_ways(at):
    at.open(f"{ONE}/latents/{SEVEN}")
    parts = at.page.locator("section[aria-labelledby=h-meta] .chip")
    assert parts.all_inner_texts() == [f"meta {SEVEN}: 0.64", f"meta {DIGITS}: 0.36"]
    parts.nth(1).click()
    at.page.get_by_role("heading", name=f"Meta-latent {DIGITS}", exact=True).wait_for()
    at.settled()
    members = at.page.locator("table").last.locator("tbody tr")
    shown = [row.split()[0] for row in members.all_inner_texts()]
    assert shown == [str(latent) for latent in (DIGITS, SEVEN, NINE, TWIN)]
    at.audit("meta")
    at.page.get_by_role("link", name=f"what latent {NINE} is made of").click()
    at.page.get_by_role("heading", name=f"Latent {NINE} is made of").wait_for()
    at.settled()
    assert at.page.locator("tbody tr").first.inner_text().startswith(f"meta {NINE}")
    at.audit("meta graph")
    at.open(f"{ONE}/meta")
    at.audit("meta list")


def test_a_latent_is_steered_by_its_meta_latents(at, index, live):
    """Take the digit 7 out of « 7 », then put 9 in: the page's numbers are those of the edited decoder row."""
    lm, weights = live.lm(), live.sae(NESTED)
    tokens = torch.tensor([[lm.bos_id, *lm.encode(["In 1977"])[0]]])

    def effect(change):
        def edited(x):
            z = weights.encode(x)[..., SEVEN : SEVEN + 1].detach().clone()
            z[:, 0] = 0
            return x + z * change

        with torch.no_grad():
            clean = lm.logits(tokens)[0, -1].log_softmax(-1)
            with splice(lm, {SITE: edited}):
                after = lm.logits(tokens)[0, -1].log_softmax(-1)
        return float((clean.exp() * (clean - after)).sum()), index.corpus.piece(int(after.argmax()))

    at.open(f"{ONE}/meta?latent={SEVEN}")
    at.page.get_by_role("link", name=f"steer without meta-latent {SEVEN}").click()
    at.page.get_by_role("heading", name="Steer and ablate").wait_for()
    at.page.get_by_label("Text", exact=True).fill("In 1977")
    at.page.get_by_role("button", name="Run").click()
    at.page.locator("#kl").wait_for()
    expected, _ = effect(-0.8 * basis()[SEVEN])
    assert float(at.page.locator("#kl").inner_text()) == pytest.approx(expected, rel=2e-3)
    assert at.page.locator("tr.chosen").inner_text().startswith(f"meta {SEVEN}")
    assert "Cosine of the edited row with the former one 0.6," in at.page.locator("main").inner_text()
    at.audit("steer by meta-latents")
    at.page.get_by_label("and put in").fill(str(NINE))
    at.page.get_by_role("button", name="Run").click()
    at.page.get_by_text(f"Put in: meta {NINE} at 0.8").wait_for()
    at.settled()
    expected, likely = effect(-0.8 * basis()[SEVEN] + 0.8 * basis()[NINE])
    assert float(at.page.locator("#kl").inner_text()) == pytest.approx(expected, rel=2e-3)
    rows = at.page.locator("#next tbody tr").all_inner_texts()
    best = max(rows, key=lambda row: float(row.split()[-2]))
    assert best.startswith(likely)
    at.page.get_by_role("link", name="put back").click()
    at.until("!document.querySelector('tr.chosen')")
    at.settled()
    expected, _ = effect(0.8 * basis()[NINE])
    assert float(at.page.locator("#kl").inner_text()) == pytest.approx(expected, rel=2e-3)


@pytest.fixture
def by(browser, stitched):
    url, process = start_server(stitched, "--no-model")
    watched = Watched(browser, url)
    yield watched
    watched.context.close()
    stop(process)
    assert not watched.problems, watched.problems


def test_stitching_leads_to_neighbourhoods_and_pairs(by):
    """Over a real run of `sae stitch`: a novel latent, what is near it, and two latents side by side."""
    at, url = by, by.base
    run = next(name for name in value(url, "/stitch.json")["runs"] if "-stitch-" in name)
    view = value(url, f"/stitch.json?run={run}")
    at.open(f"/stitch?run={run}")
    at.audit("stitch")
    main = at.page.locator("main").inner_text()
    assert f"{view['pair']['status']['novel']} novel" in main
    rows = at.page.locator("table", has_text="Most novel").locator("tbody tr").all_inner_texts()
    assert [row.split()[0] for row in rows] == [str(r["latent"]) for r in view["pair"]["novel"]]
    assert {6, 8, NINE} <= {r["latent"] for r in view["pair"]["novel"]}
    at.page.get_by_role("link", name="around 5", exact=True).click()
    at.page.locator("#near svg").wait_for()
    at.settled()
    at.audit("stitch neighbourhood")
    at.page.locator("#near circle").first.dispatch_event("click")
    at.page.locator("#near svg").wait_for()
    at.settled()
    at.page.locator("#near svg a:has(path)").first.dispatch_event("click")
    at.page.get_by_role("heading", name="Both are active").wait_for()
    at.settled()
    assert at.page.locator("h1").inner_text() == "Latents 5 and 5"
    at.audit("pair")
    at.open(f"/sae/{FIT_LARGE}/latents/{NINE}")
    assert at.page.locator("section[aria-labelledby=h-stitch] .badge.novel").count() == 2
    at.page.locator("section[aria-labelledby=h-stitch] a").first.click()
    at.page.get_by_role("heading", name=f"Around latent {NINE} of the larger").wait_for()
    at.settled()
    # One step of the path after the other.
    at.page.get_by_role("slider", name="Step").fill("2")
    at.page.wait_for_url("**step=2**")
    at.settled()
    step = value(url, f"/stitch.json?{urlsplit(at.page.url).query}")["path"]
    assert step["step"] == 2
    assert f"{step['here']['n_latents']}" in at.page.locator("dl.numbers").last.inner_text()
