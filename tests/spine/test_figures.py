import itertools
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import pytest

pytest.importorskip("matplotlib")

from matryo.spine.figures import COLOURS, bars, histogram, lines

SERIES = {"one": ([1, 2, 3], [1.0, 0.1, 0.01]), "two": ([1], [5.0])}
FIGURES = [
    lines(SERIES, "tokens", "FVU", logy=True),
    bars({"clean": 3.1, "spliced": 3.3}, "CE (nats/token)"),
    histogram([0.0, 1.0, 1.5], "log density", bins=3),
]


@pytest.mark.parametrize("svg", FIGURES)
def test_a_figure_is_one_svg_element_in_the_pages_font_and_colour(svg):
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert "currentColor" in svg
    assert "#0b0c0d" not in svg
    assert set(re.findall(r"font-family: ([^;\"]*)", svg)) == {"inherit"}
    assert "<style" not in svg
    assert not re.findall(r'(?:href|src)="(?!#)', svg)


@pytest.mark.parametrize("svg", FIGURES)
def test_every_reference_of_a_figure_is_to_an_id_in_it(svg):
    ids = re.findall(r'\bid="([^"]+)"', svg)
    references = re.findall(r'"#([^"]+)"|url\(#([^)]+)\)', svg)
    assert len(ids) == len(set(ids))
    assert {a or b for a, b in references} <= set(ids)


def test_figures_of_one_page_share_no_id():
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in FIGURES]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]


def test_labels_and_legend_are_text():
    for word in ("tokens", "FVU", "one", "two"):
        assert f">{word}</text>" in FIGURES[0]


def test_the_bytes_are_the_same_in_another_process():
    code = f"from matryo.spine.figures import lines; print(lines({SERIES!r}, 'tokens', 'FVU', logy=True), end='')"
    other = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout == FIGURES[0]


def test_many_curves_have_colours_of_their_own_and_a_legend_that_hides_none():
    names = [f"curve {i}" for i in range(14)]
    drawn = lines({name: ([0, 1], [i, i]) for i, name in enumerate(names)}, "x", "y")
    assert len({colour for colour in COLOURS if f"stroke: {colour}" in drawn}) == 14
    frame = re.search(r'patch_2">\s*<path d="M [\d.]+ [\d.]+ \nL ([\d.]+) ', drawn)
    assert frame
    for name in names:
        place = re.search(rf"rotate\(-0 ([\d.]+) [^>]*>{name}</text>", drawn)
        assert place and float(place[1]) > float(frame[1]), "beside the axes"


def test_a_legend_on_a_slow_machine_is_no_warning(monkeypatch):
    seconds = itertools.count(step=5)
    monkeypatch.setattr("matplotlib.legend.time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    assert lines(SERIES, "tokens", "FVU", logy=True) == FIGURES[0]
    assert next(seconds) > 5
