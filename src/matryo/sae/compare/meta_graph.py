"""The graph around one latent, as SVG text: the latent, its meta-latents, and the latents that share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from matryo.sae.compare.meta import Decomposition, Part

META_SHOWN, LATENTS_SHOWN = 5, 5
"""As many meta-latents, and latents of each, as the authors' dashboard draws."""

WIDTH, ROW, TOP = 760, 22, 34
COLUMNS = (8, 250, 500)
"""Left edge of the three columns of labels, in SVG units."""

LABEL = 200
"""Width kept free for a label."""


@dataclass(frozen=True)
class MetaGraph:
    """A latent's strongest meta-latents, each with its most active other latents."""

    latent: int
    parts: tuple[Part, ...]
    others: dict[int, tuple[Part, ...]]
    "By meta-latent."

    @property
    def latents(self) -> list[int]:
        """All latents of the graph, each once."""
        return list(dict.fromkeys([self.latent, *(p.latent for parts in self.others.values() for p in parts)]))


def graph_around(decomposition: Decomposition, latent: int) -> MetaGraph:
    """The part of the bipartite graph that a page can show.

    Raises:
        ValueError: there is no such latent.
    """
    parts = tuple(decomposition.of_latent(latent)[:META_SHOWN])
    others = {
        part.meta: tuple(p for p in decomposition.of_meta(part.meta) if p.latent != latent)[:LATENTS_SHOWN]
        for part in parts
    }
    return MetaGraph(latent, parts, others)


def draw_graph(graph: MetaGraph, labels: Mapping[int, str]) -> str:
    """Draw it in three columns; the width of an edge is the activation, its colour the sign of the contribution.

    Args:
        graph: what `graph_around` gives.
        labels: what to write beside a latent's number.
    """
    counts = [max(1, len(graph.others[part.meta])) for part in graph.parts] or [1]
    height = TOP + ROW * sum(counts) + 12
    top = max((p.activation for p in (*graph.parts, *sum(graph.others.values(), ()))), default=1.0)
    centre = TOP + ROW * sum(counts) / 2
    marks = [
        _heading(x, text) for x, text in zip(COLUMNS, ("latent", "meta-latents", "their other latents"), strict=True)
    ]
    marks.append(_label(COLUMNS[0], centre, str(graph.latent), labels.get(graph.latent, "")))
    y = float(TOP)
    for part, count in zip(graph.parts, counts, strict=False):
        middle = y + ROW * count / 2
        marks.append(_edge((COLUMNS[0] + LABEL, centre), (COLUMNS[1] - 6, middle), part, top))
        marks.append(
            _label(COLUMNS[1], middle, f"m{part.meta}", f"{part.activation:.2f}, share {part.contribution:+.2f}")
        )
        for place, other in enumerate(graph.others[part.meta]):
            here = y + ROW * (place + 0.5)
            marks.append(_edge((COLUMNS[1] + LABEL, middle), (COLUMNS[2] - 6, here), other, top))
            text = f"{other.activation:.2f}  {labels.get(other.latent, '')}"
            marks.append(_label(COLUMNS[2], here, str(other.latent), text))
        y += ROW * count
    body = "\n".join(marks)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" role="img" font-size="12" fill="currentColor" '
        f'font-family="inherit" aria-label="Meta-latents of latent {graph.latent}">{body}</svg>'
    )


def _heading(x: float, text: str) -> str:
    return f'<text x="{x}" y="18" font-weight="600">{escape(text)}</text>'


def _label(x: float, y: float, name: str, text: str) -> str:
    return (
        f'<text x="{x:.0f}" y="{y + 4:.1f}"><tspan font-weight="600">{escape(name)}</tspan>'
        f'<tspan dx="6" opacity="0.75">{escape(_short(text))}</tspan></text>'
    )


def _edge(start: tuple[float, float], end: tuple[float, float], part: Part, top: float) -> str:
    (x1, y1), (x2, y2) = start, end
    bend = (x2 - x1) / 2
    colour = "#2f7ed8" if part.contribution >= 0 else "#e0761a"
    tip = f"{part.latent} – m{part.meta}: activation {part.activation:.3f}, share {part.contribution:+.3f}"
    curve = f"M{x1:.0f} {y1:.1f} C{x1 + bend:.0f} {y1:.1f} {x2 - bend:.0f} {y2:.1f} {x2:.0f} {y2:.1f}"
    return (
        f'<path d="{curve}" fill="none" '
        f'stroke="{colour}" stroke-opacity="0.65" stroke-width="{max(0.8, 6 * part.activation / top):.2f}">'
        f"<title>{escape(tip)}</title></path>"
    )


def _short(text: str, most: int = 34) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
