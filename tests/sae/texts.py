"""Texts of a few words, for harvests that take no time."""

import random
from pathlib import Path

import numpy as np

WORDS = ("the", "state", "of", "whale", "union", "and", "sea", "law")
SENTENCES = ("whale", "sea", "ship", "white", "captain", "said", "was", "not", "for", "that", "with", "upon", "old")


def write_words(path: Path, count: int = 6_000) -> None:
    """Paragraphs of sixty words."""
    words = np.random.default_rng(0).choice(WORDS, count)
    path.write_text("\n\n".join(" ".join(words[i : i + 60]) for i in range(0, count, 60)))


def write_sentences(path: Path, count: int) -> None:
    """A sentence of twelve words a line."""
    draw = random.Random(1)
    lines = (" ".join(draw.choices(SENTENCES, k=12)).capitalize() + "." for _ in range(count))
    path.write_text("\n".join(lines), encoding="utf-8")
