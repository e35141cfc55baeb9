"""Small charts as SVG, sized by attributes and coloured by class, so that no inline style is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 120

COLOURS = 6
"""Of curves, as the style sheet names them; further curves have the same ones, dashed."""


def number(value: Any, digits: int = 3) -> str:
    """A number for people: whole ones with commas, others with some significant digits, – for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) < 1e-6:
        return "0"
    return f"{value:.{digits}g}"


def percent(share: float | None) -> str:
    """A share as per cent."""
    if share is None or share != share:
        return "–"
    return f"{100 * share:.3g} %"


def histogram(
    counts: Sequence[int],
    low: float,
    high: float,
    label: str,
    links: Sequence[str] = (),
    log: bool = True,
    mark: float | None = None,
) -> Markup:
    """Bars of equal intervals of [low, high], of log(1 + count) by default; each bar can lead somewhere.

    A line stands at the x of `mark`.
    """
    top = max(counts, default=0)
    scale = (lambda n: math.log1p(n)) if log else float
    tallest, width = scale(top) or 1.0, WIDTH / max(1, len(counts))
    parts = []
    for i, count in enumerate(counts):
        height = (HEIGHT - 18) * scale(count) / tallest
        bounds = [low + (high - low) * j / len(counts) for j in (i, i + 1)]
        tip = f"{number(bounds[0])} – {number(bounds[1])}: {count:,}"
        bar = (
            f'<rect class="bar" x="{i * width:.2f}" y="{HEIGHT - 16 - height:.2f}" width="{max(0.5, width - 1):.2f}" '
            f'height="{height:.2f}"><title>{escape(tip)}</title></rect>'
        )
        if links and count:
            bar = f'<a href="{escape(links[i])}" aria-label="{escape(tip)}" tabindex="-1">{bar}</a>'
        parts.append(bar)
    if mark is not None and low <= mark <= high and high > low:
        x = WIDTH * (mark - low) / (high - low)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT - 16}"/>')
    axis = (
        f'<text x="0" y="{HEIGHT - 3}">{number(float(low))}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 3}" text-anchor="end">{number(float(high))}</text>'
    )
    role = "group" if links else "img"
    return _svg("".join(parts) + axis, f"{label}: {top:,} in the fullest of {len(counts)} intervals", role=role)


def scatter(
    points: Sequence[tuple[float, float, str, str, str]],
    x_label: str,
    y_label: str,
    lines: Sequence[tuple[str, float]] = (),
    linear: float | None = None,
) -> Markup:
    """Points (x, y, class, link, tip) with axes; lines are ("x" or "y", value).

    With `linear`, y is drawn as asinh(y / linear): logarithmic on either side of 0, linear below that size.
    """
    width, height, left, foot = 640, 380, 72, 34
    finite = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
    if not finite:
        return Markup('<p class="quiet">Nothing to draw.</p>')
    scaled = (lambda y: math.asinh(y / linear)) if linear else float
    xs, ys = [p[0] for p in finite], [p[1] for p in finite]
    box = [min(xs), max(xs), scaled(min(ys)), scaled(max(ys))]
    spans = [(box[1] - box[0]) or 1.0, (box[3] - box[2]) or 1.0]

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (width - left - 8) * (x - box[0]) / spans[0], height - foot - (height - foot - 8) * (
            scaled(y) - box[2]
        ) / spans[1]

    parts = [f'<rect class="frame" x="{left}" y="4" width="{width - left - 4}" height="{height - foot - 4}"/>']
    for axis, value in lines:
        if axis == "x" and box[0] <= value <= box[1]:
            parts.append(
                f'<line class="mark" x1="{at(value, 0)[0]:.1f}" x2="{at(value, 0)[0]:.1f}" y1="4" y2="{height - foot}"/>'
            )
        if axis == "y" and min(ys) <= value <= max(ys):
            parts.append(
                f'<line class="mark" x1="{left}" x2="{width - 4}" y1="{at(0, value)[1]:.1f}" y2="{at(0, value)[1]:.1f}"/>'
            )
    for x, y, kind, link, tip in finite:
        px, py = at(x, y)
        dot = f'<circle class="dot {escape(kind)}" cx="{px:.1f}" cy="{py:.1f}" r="2.6"><title>{escape(tip)}</title></circle>'
        parts.append(f'<a href="{escape(link)}" tabindex="-1" aria-label="{escape(tip)}">{dot}</a>' if link else dot)
    parts += [
        f'<text x="{left}" y="{height - 18}">{number(float(box[0]))}</text>',
        f'<text x="{width - 4}" y="{height - 18}" text-anchor="end">{number(float(box[1]))}</text>',
        f'<text x="{(width + left) / 2}" y="{height - 4}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="{left - 4}" y="14" text-anchor="end">{number(float(max(ys)))}</text>',
        f'<text x="{left - 4}" y="{height - foot}" text-anchor="end">{number(float(min(ys)))}</text>',
        f'<text x="12" y="{height / 2}" text-anchor="middle" transform="rotate(-90 12 {height / 2})">{escape(y_label)}</text>',
    ]
    return _svg("".join(parts), f"{y_label} against {x_label}, {len(finite):,} points", width, height, "group")


def curve(
    series: Sequence[tuple[str, Sequence[float], Sequence[float], int]],
    label: str,
    log: bool = False,
    mark: float | None = None,
) -> Markup:
    """Named curves (x, y, number that chooses colour and dashes), on a logarithmic y when asked and possible.

    A line stands at the x of `mark`.
    """
    width, height, left, foot = 640, 220, 56, 20
    kept = [(name, x, y, place) for name, x, y, place in series if len(x) > 0]
    values = [v for _, _, y, _ in kept for v in y]
    if not values:
        return Markup('<p class="quiet">No numbers yet.</p>')
    log = log and min(values) > 0
    f = math.log if log else float
    low, high = f(min(values)), f(max(values))
    first, last = min(x[0] for _, x, _, _ in kept), max(x[-1] for _, x, _, _ in kept)
    parts = [f'<rect class="frame" x="{left}" y="4" width="{width - left - 4}" height="{height - foot - 4}"/>']
    if mark is not None and first <= mark <= last:
        x = left + (width - left - 4) * (mark - first) / ((last - first) or 1)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - foot}"/>')
    for name, xs, ys, place in kept:
        dots = " ".join(
            f"{left + (width - left - 4) * (x - first) / ((last - first) or 1):.1f},"
            f"{height - foot - (height - foot - 8) * (f(y) - low) / ((high - low) or 1):.1f}"
            for x, y in zip(xs, ys, strict=True)
        )
        look = f"curve c{place % COLOURS}{' dashed' if place // COLOURS % 2 else ''}"
        parts.append(f'<polyline class="{look}" points="{dots}"><title>{escape(name)}</title></polyline>')
    parts += [
        f'<text x="{left - 4}" y="14" text-anchor="end">{number(float(max(values)))}</text>',
        f'<text x="{left - 4}" y="{height - foot}" text-anchor="end">{number(float(min(values)))}</text>',
        f'<text x="{left}" y="{height - 5}">{number(first)}</text>',
        f'<text x="{width - 4}" y="{height - 5}" text-anchor="end">{number(last)}</text>',
    ]
    return _svg("".join(parts), label, width, height)


def _svg(inside: str, label: str, width: int = WIDTH, height: int = HEIGHT, role: str = "img") -> Markup:
    return Markup(
        f'<svg class="chart" role="{role}" aria-label="{escape(label)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">{inside}</svg>'
    )
