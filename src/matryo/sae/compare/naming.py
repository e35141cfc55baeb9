"""Short names for tables and figures."""

from __future__ import annotations

from collections.abc import Sequence


def short_names(names: Sequence[str]) -> list[str]:
    """Names of SAEs without the parts that all of them have: kind-768-k32-s0, kind-1536-k32-s0 → 768, 1536.

    As they are when nothing would be left of one, or two would be the same.
    """
    parts = [name.split("-") for name in names]
    common = set.intersection(*map(set, parts)) if parts else set()
    short = ["-".join(part for part in one if part not in common) for one in parts]
    return short if all(short) and len(set(short)) == len(set(names)) else list(names)
