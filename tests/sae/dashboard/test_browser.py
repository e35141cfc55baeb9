"""What a reader does, in a real browser; each flow minds accessibility, console errors and foreign requests."""

import os
import re
import urllib.request

import numpy as np
import pytest
from tests.sae.dashboard.browsing import Watched, start_server, stop, value
from tests.sae.dashboard.planted import DEAD, DIGITS, NESTED, NINE, SCRIPT, SEVEN, SMALL, TWIN

ONE = f"/sae/{NESTED}"


def test_from_the_first_page_to_a_latent_and_its_parent(at):
    at.open("/")
    at.audit("home")
    at.page.get_by_role("link", name="Tree of levels").click()
    at.settled()
    at.page.get_by_role("link", name=re.compile(f"^{SEVEN} ")).first.click()
    at.page.get_by_role("heading", name=f"Latent {SEVEN}", exact=True).wait_for()
    at.settled()
    chosen = at.page.locator("tr.chosen")
    assert chosen.locator(".chip").inner_text().split()[0] == str(DIGITS)
    at.audit("latent")
    chosen.locator(".chip").click()
    at.page.get_by_role("heading", name=f"Latent {DIGITS}", exact=True).wait_for()


def test_tokens_tell_their_activation_to_mouse_and_keyboard(at, base):
    at.open(f"{ONE}/latents/{DIGITS}")
    example = value(base, f"{ONE}/latents/{DIGITS}.json")["examples"]["groups"][0]["examples"][0]
    peak = at.page.locator(".passage .pk").first
    peak.hover()
    tip = at.page.locator("#tip")
    assert tip.is_visible()
    assert float(tip.inner_text().split()[0]) == pytest.approx(example["activation"], rel=1e-5)
    assert tip.inner_text().endswith(f"position {example['position']}")
    at.page.mouse.move(0, 0)
    assert tip.is_hidden()
    peak.focus()
    assert tip.is_visible()
    at.page.keyboard.press("ArrowLeft")
    moved = at.page.evaluate("document.activeElement.dataset.v")
    assert float(moved) > 0
    at.page.keyboard.press("Escape")
    assert tip.is_hidden()
    at.shot("tooltip")


def test_keys_lead_through_latents_and_pages(at):
    at.open(f"{ONE}/latents/{SEVEN}")
    at.page.keyboard.press("j")
    at.page.wait_for_url(f"**/latents/{SEVEN + 1}")
    at.settled()
    at.page.keyboard.press("k")
    at.page.wait_for_url(f"**/latents/{SEVEN}")
    at.settled()
    at.page.go_back()
    at.page.get_by_role("heading", name=f"Latent {SEVEN + 1}", exact=True).wait_for()
    at.settled()
    at.page.keyboard.press("?")
    assert "j next" in at.page.locator("#tip").inner_text()
    at.page.keyboard.press("/")
    assert at.page.evaluate("document.activeElement.id") == "q"
    at.page.keyboard.press("Escape")
    at.page.keyboard.press("g")
    at.page.keyboard.press("l")
    at.page.get_by_role("heading", name=re.compile("^Latents of")).wait_for()


def test_the_table_filters_as_one_types_and_the_address_says_how(at):
    at.open(f"{ONE}/latents")
    at.audit("table")
    at.page.get_by_label("Filter").fill("level=1 density>0")
    at.page.wait_for_url("**where=level*")
    at.settled()
    assert at.page.locator("#count").inner_text() == "7"
    at.page.get_by_role("link", name="entropy").click()
    at.settled()
    url = at.page.url
    rows = at.page.locator("tbody tr td:first-child").all_inner_texts()
    at.page.goto(url)
    assert at.page.locator("tbody tr td:first-child").all_inner_texts() == rows
    assert len(rows) == 7


def test_hovering_a_chip_shows_its_card(at):
    at.open(f"{ONE}/latents")
    at.page.locator("td .chip", has_text=re.compile(f"^{SEVEN}$")).hover()
    card = at.page.locator("#card")
    card.get_by_role("heading", name=str(SEVEN)).wait_for()
    assert "of tokens" in card.inner_text()


def test_search_by_number_text_and_script(at):
    at.open("/")
    box = at.page.get_by_role("searchbox")
    box.fill("the sea")
    box.press("Enter")
    at.page.get_by_role("heading", name=re.compile("«the sea» in the text")).wait_for()
    at.settled()
    assert at.page.locator("tbody .chip").first.inner_text().split()[0] in ("5", "0")
    at.audit("search")
    box = at.page.get_by_role("searchbox")
    box.fill("<script>alert(1)</script>")
    box.press("Enter")
    at.page.get_by_role("heading", name=re.compile("alert")).wait_for()
    at.settled()
    box.fill(str(SCRIPT))
    box.press("Enter")
    at.page.get_by_role("heading", name=f"Latent {SCRIPT}").wait_for()


def test_tabs_and_bars_choose_passages(at):
    at.open(f"{ONE}/latents/{DIGITS}")
    at.page.get_by_role("link", name="by interval").click()
    at.settled()
    assert at.page.locator("section[aria-labelledby=h-examples] h3").count() == 5
    at.open(f"{ONE}/latents/{DIGITS}")
    at.page.locator("svg a").last.click()
    at.page.get_by_text("Only activations from").wait_for()
    values = [float(v) for v in at.page.locator(".pk").evaluate_all("all => all.map(e => e.dataset.v)")]
    assert values
    assert min(values) > 1.6
    at.page.get_by_role("button", name="Line breaks").click()


def test_company_and_neighbours_come_after_the_page(at):
    at.open(f"{ONE}/latents/{SEVEN}")
    table = at.page.locator("section[aria-labelledby=h-near] table").first
    assert table.locator(".chip").first.inner_text().split()[0] == str(TWIN)
    assert at.page.locator("section[aria-labelledby=h-with] tbody tr").count() >= 2


def test_the_tree_moves_with_its_thresholds(at):
    at.open(f"{ONE}/levels")
    tree = at.page.locator("ul.tree")
    assert tree.get_by_role("link", name=re.compile(f"^{SEVEN} ")).count() == 1
    at.page.get_by_text("Suspects of absorption").wait_for()
    suspect = at.page.locator("section[aria-labelledby=h-suspects] .suspect").filter(has_text=f"{NINE} ").first
    suspect.locator("summary").click()
    assert suspect.locator(".passage").first.is_visible()
    at.audit("levels")
    at.page.get_by_label("Cosine at least").fill("0.7")
    at.page.wait_for_url("**cosine=0.7*")
    at.settled()
    assert at.page.locator("ul.tree").count() == 0


def test_a_prompt_finds_its_latents(at):
    at.open(f"/prompt?sae={NESTED}")
    at.page.get_by_label("Text", exact=True).fill("The ship met 7 men.")
    at.page.get_by_role("button", name="Run").click()
    at.page.get_by_role("heading", name="Tokens").wait_for()
    at.settled()
    shown = {text.split()[0] for text in at.page.locator("tbody .chip").all_inner_texts()}
    assert {str(SEVEN), str(DIGITS), "6", "5"} <= shown
    at.audit("prompt")
    at.page.get_by_role("link", name=re.compile(": 7$")).first.click()
    at.page.wait_for_url("**sort=token**")
    at.settled()
    shown = {text.split()[0] for text in at.page.locator("tbody .chip").all_inner_texts()}
    assert shown == {str(SEVEN), str(DIGITS), str(TWIN)}


def test_ablation_moves_the_next_token(at):
    at.open(f"{ONE}/latents/{SEVEN}")
    at.page.locator("main").get_by_role("link", name="Steer", exact=True).click()
    at.page.get_by_role("heading", name="Steer and ablate").wait_for()
    at.settled()
    at.page.get_by_label("Text", exact=True).fill("In 1977")
    at.page.get_by_label("Edit").select_option("ablate")
    at.page.get_by_label("New tokens").fill("5")
    at.page.get_by_role("button", name="Run").click()
    at.page.locator("#kl").wait_for()
    assert float(at.page.locator("#kl").inner_text()) > 0
    at.audit("steer")


def test_the_model_is_asked_for_near_misses_and_effects(at):
    at.open(f"{ONE}/latents/{SEVEN}")
    for what in ("h-miss", "h-effect"):
        place = at.page.locator(f"section[aria-labelledby={what}]")
        place.locator("summary").click()
        place.locator(".passage").first.wait_for()
    at.audit("latent with the model")


def test_a_label_is_saved_and_found(at):
    at.open(f"{ONE}/latents/{SEVEN}")
    at.page.get_by_role("textbox", name="Label", exact=True).fill("sevens")
    at.page.get_by_label("Tags").fill("digits")
    at.page.get_by_role("button", name="Save").click()
    at.page.get_by_text("saved", exact=True).wait_for()
    at.page.reload()
    at.page.get_by_role("heading", name=f"Latent {SEVEN} sevens").wait_for()
    at.open(f"/lists?sae={NESTED}")
    assert at.page.locator("tbody tr").inner_text().startswith(str(SEVEN))
    at.audit("notes")
    box = at.page.get_by_role("searchbox")
    box.fill("seven")
    box.press("Enter")
    at.page.get_by_role("heading", name="Labels").wait_for()


def test_the_map_leads_to_latents_and_its_lasso_lists_them(at, base):
    at.open(f"{ONE}/map?where=token:7")
    at.until("!!document.getElementById('map').dataset.drawn")
    at.audit("map")
    box = at.page.locator("#map").bounding_box()
    corners = [(2, 2), (box["width"] - 3, 2), (box["width"] - 3, box["height"] - 3), (2, box["height"] - 3), (2, 3)]
    x, y = box["x"], box["y"]
    at.page.mouse.move(x + 2, y + 2)
    at.page.mouse.down()
    for dx, dy in corners[1:]:
        at.page.mouse.move(x + dx, y + dy, steps=4)
    at.page.mouse.up()
    at.page.get_by_text("In the lasso: 12 latents").wait_for()
    at.page.locator("#picked .chip").nth(11).wait_for()
    assert "Most frequent tokens" in at.page.locator("#picked").inner_text()
    # The pointer over a point shows its latent's card.
    with urllib.request.urlopen(f"{base}{ONE}/map.bin") as answer:
        points = np.frombuffer(answer.read(), "<f4").reshape(12, 5)[:, :2]
    u, v = ((points - points.min(0)) / (points.max(0) - points.min(0)))[SCRIPT]
    px, py = float(8 + u * (960 - 16)), float(640 - (8 + v * (640 - 16)))
    at.page.mouse.move(x + px * box["width"] / 960, y + py * box["height"] / 640)
    at.page.locator("#card").get_by_role("heading", name=str(SCRIPT)).wait_for()


def test_what_is_copied_as_python_reads_the_page(at):
    at.open(f"{ONE}/levels?cosine=0.5")
    at.page.evaluate("navigator.clipboard.writeText = async text => { window.copied = text; }")
    at.page.get_by_role("button", name="Read in Python").click()
    at.until("!!window.copied")
    names = {}
    exec(at.page.evaluate("window.copied"), names)
    assert names["view"] == value(at.base, f"{ONE}/levels.json?cosine=0.5")


def test_two_saes_are_compared(at):
    at.open(f"/compare?a={SMALL}&b={NESTED}")
    assert "6 have a row in A" in at.page.locator("main").inner_text()
    at.audit("compare")
    at.page.locator("svg a").first.dispatch_event("click")
    at.page.get_by_role("heading", name=re.compile("^Latent")).wait_for()


def test_the_dead_and_the_missing_are_told(at):
    at.open(f"{ONE}/latents/{DEAD}")
    assert "Dead on this text" in at.page.locator("main").inner_text()
    at.audit("dead latent")
    at.page.goto(at.base + f"{ONE}/latents/99")
    assert "expected 0 to 11" in at.page.locator("main").inner_text()
    at.problems.clear()  # the browser reports the 404 itself
    at.open("/help")
    at.audit("help")


def test_dark_and_narrow(browser, base):
    dark = Watched(browser, base, color_scheme="dark")
    dark.page.set_viewport_size({"width": 420, "height": 800})
    for path in ("/", ONE, f"{ONE}/latents", f"{ONE}/levels", f"{ONE}/map", "/runs", f"{ONE}/latents/{DIGITS}"):
        dark.open(path)
        assert dark.page.evaluate("document.documentElement.scrollWidth") <= 420, path
    dark.audit("dark")
    dark.page.set_viewport_size({"width": 320, "height": 800})
    clipped = "[...document.querySelectorAll('input, select, button')].map(e => e.getBoundingClientRect().right)"
    for path in (f"{ONE}/latents", "/compare", "/steer"):
        dark.open(path)
        assert max(dark.page.evaluate(clipped)) <= 320, path
    dark.context.close()


def test_pictures_for_the_readme(browser):
    """Of a real index, where MATRYO_DASHBOARD_RUN names one and MATRYO_SCREENSHOTS the folder for them."""
    run = os.environ.get("MATRYO_DASHBOARD_RUN")
    if not run:
        pytest.skip("MATRYO_DASHBOARD_RUN names no index")
    url, process = start_server(run, "--no-model")
    watched = Watched(browser, url)
    nested = next(s for s in value(url, "/index.json")["saes"] if s["levels"] > 1)
    base = f"/sae/{nested['name']}"
    watched.open(f"{base}/latents/{nested['start'][0]['latent']}")
    watched.audit("readme-latent")
    watched.open(f"{base}/levels")
    watched.audit("readme-levels")
    watched.context.close()
    stop(process)
