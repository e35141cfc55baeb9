"""Passages as HTML. Only active tokens are elements; the rest is plain text, which keeps pages small and quick."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

SHADES = 9


def shade(value: float, top: float) -> int:
    """0 for nothing, 1 … 9 for ninths of the largest value, rounded up."""
    return min(SHADES, math.ceil(SHADES * value / top)) if value > 0 and top > 0 else 0


def tokens_html(pieces: Sequence[str], values: Sequence[float], top: float, peak: int = -1, first: int = 1) -> Markup:
    """A passage: active tokens tinted by class, with value and position for the tooltip; all text escaped.

    Args:
        pieces: as shown.
        values: activations, 0 for none.
        top: has the strongest tint.
        peak: place in the passage of the token it is about; −1 for none.
        first: position of the first piece in its row.
    """
    out: list[str] = []
    for i, (piece, value) in enumerate(zip(pieces, values, strict=True)):
        text = str(escape(piece))
        if value > 0 or i == peak:
            peaks = " pk" if i == peak else ""
            out.append(
                f'<span class="t a{shade(value, top)}{peaks}" tabindex="-1" data-v="{value:.6g}" data-p="{first + i}">{text}</span>'
            )
        else:
            out.append(text)
    return Markup("".join(out))


def example_html(example: Mapping[str, Any], top: float) -> Markup:
    """One passage of a latent."""
    peak = example["token"] - example["first"]
    return tokens_html(example["pieces"], example["values"], top, peak, example["position"] - peak)
