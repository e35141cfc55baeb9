"""What a page was asked for: the values in its address, each checked where it is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from matryo.spine.errors import unknown


class Query:
    """Named texts, read as what they should be.

    Every reader raises a ValueError that names the value, what was expected, and its limits.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = dict(values)

    def text(self, name: str, default: str = "", longest: int = 8_192) -> str:
        """A text of at most `longest` characters."""
        value = self.values.get(name, default)
        if len(value) > longest:
            raise ValueError(f"{name} has {len(value):,} characters; expected at most {longest:,}")
        return value

    def whole(self, name: str, default: int, least: int = 0, most: int = 2**31 - 1) -> int:
        """A whole number."""
        value = self.values.get(name, "").strip()
        if not value:
            return default
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 10 or not least <= int(value) <= most:
            raise ValueError(f"{name} is {value[:40]!r}; expected a whole number from {least} to {most}")
        return int(value)

    def number(self, name: str, default: float, least: float = -math.inf, most: float = math.inf) -> float:
        """A finite number."""
        value = self.values.get(name, "").strip()
        if not value:
            return default
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if not (math.isfinite(found) and least <= found <= most):
            raise ValueError(f"{name} is {value[:40]!r}; expected a number from {least:g} to {most:g}")
        return found

    def choice(self, name: str, options: Iterable[str], default: str) -> str:
        """One of some words."""
        value, options = self.values.get(name) or default, list(options)
        if value not in options:
            raise unknown(name, value[:40], options)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Yes or no: 1 or 0."""
        return self.choice(name, ("0", "1"), str(int(default))) == "1"
