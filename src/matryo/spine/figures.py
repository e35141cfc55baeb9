"""Small figures as SVG text: they take the page's colours and font, and are the same bytes in every process."""

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#0b0c0d"  # stands for the page's text colour until the figure is written
COLOURS = (
    "#2f7ed8", "#e0761a", "#2a9d62", "#c2417c", "#8a63d2", "#9a8412", "#6b7785",
    "#17a2b0", "#b5482f", "#74a32b", "#d277c4", "#4f56c8", "#a3764d", "#1d7f70",
)  # fmt: skip  # mid-tones for light and dark


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, logy: bool = False
) -> str:
    """Draw named curves, each a pair of x and y, and return the SVG."""

    def draw(axes: "Axes") -> None:
        for name, (x, y) in series.items():
            axes.plot(x, y, label=name, linewidth=1.4, marker="o" if len(x) < 3 else None)

    return svg(draw, xlabel, ylabel, logy=logy, legend=len(series) > 1)


def bars(values: Mapping[str, float], ylabel: str, logy: bool = False) -> str:
    """Draw one bar for each name, and return the SVG."""
    return svg(lambda axes: axes.bar(list(values), list(values.values()), width=0.6), "", ylabel, logy=logy)


def histogram(values: Sequence[float], xlabel: str, bins: int = 40, logy: bool = False) -> str:
    """Draw how many values fall in each of `bins` equal intervals, and return the SVG."""
    return svg(lambda axes: axes.hist(values, bins=bins), xlabel, "count", logy=logy)


def svg(draw: Callable[["Axes"], object], xlabel: str, ylabel: str, logy=False, legend=False, size=(6.4, 3.2)) -> str:
    """Let `draw` draw on axes of a size in inches, or divide `axes.figure` after `axes.remove()`; return the SVG."""
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    )
    style |= {"svg.hashsalt": "matryo", "svg.fonttype": "none", "font.size": 9}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "axes.prop_cycle": cycler(color=COLOURS)}
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        draw(axes)
        axes.set(xlabel=xlabel, ylabel=ylabel, **({"yscale": "log"} if logy else {}))  # "linear" would undo named ticks
        axes.grid(color=INK, alpha=0.15, linewidth=0.6)
        axes.set_axisbelow(True)
        if legend:
            where: dict[str, Any] = {"loc": "best"}  # said, or a machine that is slow to find the place warns of it
            if len(axes.get_legend_handles_labels()[1]) > 5:  # beside the axes it hides no curve
                where = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
            axes.legend(frameon=False, **where)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"(?s)^.*?(?=<svg)|<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", out.getvalue())
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg).replace(INK, "currentColor")
    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]  # two figures of a page share no id
    return re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>m{mark}-", svg)
