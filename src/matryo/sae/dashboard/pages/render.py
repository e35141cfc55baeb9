"""Templates: one environment, with the drawing functions as filters."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from matryo.sae.dashboard.index.statistics import COLUMNS
from matryo.sae.dashboard.pages import charts, passages
from matryo.sae.dashboard.views.table import BESIDE


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates' environment; text is escaped wherever it comes from."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= {"number": charts.number, "percent": charts.percent, "seg": lambda text: quote(str(text), safe="")}
    made.globals |= {
        "histogram": charts.histogram,
        "scatter": charts.scatter,
        "curve": charts.curve,
        "example_html": passages.example_html,
        "tokens_html": passages.tokens_html,
        "shade": passages.shade,
        "address": address,
        "bar_links": bar_links,
        "COLUMNS": COLUMNS,
        "BESIDE": BESIDE,
    }
    return made


def address(path: str, **values: Any) -> str:
    """A path with the values that are neither None nor empty in its query."""
    told = {key: value for key, value in values.items() if value is not None and value != ""}
    return f"{path}?{urlencode(told)}" if told else path


def bar_links(path: str, bins: int, largest: float) -> list[str]:
    """Where the bars of an activation histogram lead: to the passages of their interval; the last one is open above."""
    edges = [f"{largest * i / bins:.9g}" for i in range(bins)]
    ends = [*edges[1:], None]
    return [address(path, tab="random", **{"from": a, "to": b}) for a, b in zip(edges, ends, strict=True)]


def render(template: str, view: dict[str, Any], **context: Any) -> str:
    """A page, or a part of one."""
    return environment().get_template(template).render(v=view, **context)


def as_json(view: dict[str, Any]) -> str:
    """A view's JSON twin."""
    return json.dumps(view, ensure_ascii=False, allow_nan=False)


def inline(name: str) -> Markup:
    """A static file's text, for pages that must stand alone."""
    return Markup((Path(__file__).parents[1] / "static" / name).read_text(encoding="utf-8"))
