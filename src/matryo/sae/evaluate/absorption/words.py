"""Single tokens with labels: first letters, the kinds of WordNet's nouns, or a file of one's own."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from matryo.spine.errors import unknown
from matryo.spine.fetch import file_sha256

if TYPE_CHECKING:
    from matryo.sae.lm import LM

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, eq=False)
class Words:
    """Tokens of a model's vocabulary with the concepts they fall under, one or more of `classes` or none."""

    name: str
    texts: tuple[str, ...]
    "Each as the tokenizer writes it, leading space included."
    ids: Int[Tensor, "words"]
    classes: tuple[str, ...]
    labels: Bool[Tensor, "words classes"]
    children: tuple[str | None, ...]
    "The kind directly below the class, where the labels have such; rates are also given by child."
    digest: str
    "What the labels were made from: a rule, or the SHA-256 of a file."

    def pick(self, index: Tensor) -> Words:
        """Some of the words."""
        chosen = index.tolist()
        return Words(
            self.name,
            tuple(self.texts[i] for i in chosen),
            self.ids[index],
            self.classes,
            self.labels[index],
            tuple(self.children[i] for i in chosen),
            self.digest,
        )

    def answer(self, word: int) -> str | None:
        """The first class of a word."""
        held = self.labels[word].nonzero()
        return self.classes[int(held[0])] if len(held) else None


def first_letter_words(lm: LM) -> Words:
    """Every token of letters alone, with or without a leading space, by its first letter, as SAEBench has them."""
    found = list(_vocabulary(lm, re.compile(r" ?[A-Za-z]+").fullmatch))
    rows = [LETTERS.index(text.strip()[0].lower()) for _, text in found]
    labels = torch.nn.functional.one_hot(torch.tensor(rows, dtype=torch.long), len(LETTERS)).bool()
    return Words(
        "first-letter",
        tuple(text for _, text in found),
        torch.tensor([i for i, _ in found]),
        tuple(LETTERS),
        labels,
        (None,) * len(found),
        "tokens matching ' ?[A-Za-z]+'",
    )


def labelled_words(
    lm: LM, name: str, kinds: Mapping[str, Iterable[tuple[str, str | None]]], classes: Iterable[str], digest: str
) -> Words:
    """The lower-case words with a leading space that are one token and have an entry in `kinds`.

    Args:
        lm: whose vocabulary.
        name: of the set of labels.
        kinds: for every word its (class, child) pairs; none for a word of no class, which is a negative.
        classes: their names, in order.
        digest: what `kinds` was made from.

    Raises:
        ValueError: no word of `kinds` is a single token.
    """
    order = tuple(classes)
    found = [(i, text) for i, text in _vocabulary(lm, re.compile(r" [a-z]+").fullmatch) if text[1:] in kinds]
    if not found:
        raise ValueError(f"{name}: none of {len(kinds)} words is a single token of {lm.name}; expected some")
    labels = torch.zeros(len(found), len(order), dtype=torch.bool)
    children: list[str | None] = []
    for row, (_, text) in enumerate(found):
        pairs = list(kinds[text[1:]])
        for parent, _child in pairs:
            labels[row, order.index(parent)] = True
        children.append(next((child for _, child in pairs if child), None))
    ids = torch.tensor([i for i, _ in found])
    return Words(name, tuple(text for _, text in found), ids, order, labels, tuple(children), digest)


def words_of_file(lm: LM, path: Path) -> Words:
    """Labels from a CSV or TSV file with the columns word, parent and, if wanted, child; an empty parent is a negative.

    Raises:
        ValueError: no such columns, fewer than two words of a class, or no word that is a single token.
        OSError: the file cannot be read.
    """
    with path.open(encoding="utf-8", newline="") as stream:
        head = stream.readline()
        stream.seek(0)
        rows = list(csv.DictReader(stream, delimiter="\t" if "\t" in head else ","))
    if not rows or not {"word", "parent"} <= rows[0].keys():
        raise ValueError(f"{path}: its first line is {head.strip()!r}; expected the columns word, parent[, child]")
    kinds: dict[str, list[tuple[str, str | None]]] = {}
    for row in rows:
        pairs = kinds.setdefault((row["word"] or "").strip().lower(), [])
        if parent := (row["parent"] or "").strip():
            pairs.append((parent, (row.get("child") or "").strip() or None))
    classes = dict.fromkeys(parent for pairs in kinds.values() for parent, _ in pairs)
    return labelled_words(lm, path.stem, kinds, classes, file_sha256(path))


def read_words(lm: LM, source: str) -> Words:
    """The words of `first-letter`, `wordnet` or `file:PATH`.

    Raises:
        ValueError: another name, or labels that cannot be used.
        OSError: the file or the pack cannot be read.
    """
    if source == "first-letter":
        return first_letter_words(lm)
    if source == "wordnet":
        from matryo.sae.evaluate.absorption.hypernyms import wordnet_words

        return wordnet_words(lm)
    if source.startswith("file:"):
        return words_of_file(lm, Path(source.removeprefix("file:")).expanduser())
    raise unknown("labels", source, ("first-letter", "wordnet"), "or file:PATH")


def _vocabulary(lm: LM, wanted: Callable[[str], object]) -> Iterator[tuple[int, str]]:
    """Id and text of the wanted tokens, those that the tokenizer itself makes of their text on a new line."""
    if lm.tokenizer is None:
        raise ValueError(f"{lm.name} has no tokenizer; expected one, to know which tokens are words")
    size = min(lm.vocab_size, len(lm.tokenizer))
    texts = [(i, lm.decode([i])) for i in range(size)]
    found = [(i, text) for i, text in texts if wanted(text)]
    if not found:
        raise ValueError(f"{lm.name} has no token that is a word; expected a tokenizer of whole words")
    newline = lm.encode(["\n"])[0]
    rows = lm.encode(["\n" + text for _, text in found])
    for (i, text), row in zip(found, rows, strict=True):
        if row == [*newline, i]:
            yield i, text
