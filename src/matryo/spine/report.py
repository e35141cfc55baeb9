"""Reports: one HTML file with sections, tables and SVG figures, that asks for nothing from anywhere."""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from matryo.spine.config import write_text

_html = Environment(autoescape=True, trim_blocks=True).from_string(Path(__file__).with_name("report.html").read_text())


class Report:
    """A page under construction: add sections, then write it."""

    def __init__(self, title: str, subtitle: str = ""):
        self.title, self.subtitle = title, subtitle
        self._sections: list[tuple[str, str, tuple[Markup, ...]]] = []

    def section(self, heading: str, *html: str) -> None:
        """Add a section; plain strings are escaped into paragraphs, the functions below give the rest."""
        slug = re.sub(r"\W+", "-", heading.lower()).strip("-")
        parts = tuple(part if isinstance(part, Markup) else text(part) for part in html)
        self._sections.append((f"s{len(self._sections) + 1}-{slug}", heading, parts))

    def write(self, path: Path) -> None:
        """Write the page, atomically."""
        write_text(path, _html.render(title=self.title, subtitle=self.subtitle, sections=self._sections))


def raw(html: str) -> Markup:
    """Take text as HTML as it is; whoever calls has escaped it."""
    return Markup(html)


def text(*paragraphs: str) -> Markup:
    """Escape each string into a paragraph."""
    return Markup("\n").join(Markup("<p>{}</p>").format(paragraph) for paragraph in paragraphs)


def figure(svg: str, caption: str = "") -> Markup:
    """Set an SVG, such as `figures` draws, with a caption."""
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(Markup(svg), caption)


def table(headers: Sequence[str | tuple[str, str]], rows: Iterable[Sequence[Any]], caption: str = "") -> Markup:
    """Set a table; columns of numbers are right-aligned, floats have four significant digits.

    Args:
        headers: A label for each column, or a label and its explanation, shown when pointed at.
        rows: Cells: strings, numbers, None for nothing, or HTML from the functions here; as many as headers.
        caption: Said below the table.
    """
    cells = [list(row) for row in rows]
    for row in cells:
        if len(row) != len(headers):
            raise ValueError(f"table row {row!r} has {len(row)} cells: expected {len(headers)}, one for each header")
    heads = []
    for i, head in enumerate(headers):
        label, tip = (head, "") if isinstance(head, str) else head
        column = [row[i] for row in cells if row[i] is not None]
        heads.append(
            {"label": label, "tip": tip, "n": bool(column) and all(isinstance(c, int | float) for c in column)}
        )
    shown = [[_cell(cell) for cell in row] for row in cells]
    html = _html.module.table(heads, shown, caption)  # pyright: ignore[reportAttributeAccessIssue]
    return Markup(html)


def tokens(pieces: Sequence[str], values: Sequence[float], top: float) -> Markup:
    """Set a passage with each token tinted by its value; `top` has the strongest tint, 0 none."""
    spans = []
    for piece, value in zip(pieces, values, strict=True):
        level = min(9, math.ceil(9 * value / top)) if value > 0 and top > 0 else 0
        spans.append(Markup('<span class="tok a{}" title="{}">{}</span>').format(level, f"{value:.4g}", piece))
    return Markup('<div class="passage">{}</div>').format(Markup("").join(spans))


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
