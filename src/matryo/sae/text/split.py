"""Which documents are held out, and the order in which several sources are read.

The split. Each group gets u = hash(seed, group) ∈ [0, 1). Of the groups met in the first documents (up to 64 groups
or about 256 documents), the fraction with the smallest u is kept apart, at least one and not all; of groups met later
those with u < fraction. So it depends on the seed and on the text, not on the budget. Where this leaves a part without
a full row, the unit of the split becomes the document, and at last the row (the last rows are kept apart);
`TokenRows.split_by` records which it was. What is kept apart is the held-out part and, where one is wanted, the
calibration part: these two share groups, but no document, so that what is set on one holds on the other.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from matryo.sae.text.documents import Document, Source

SplitBy = Literal["group", "document", "row"]

_LOOK_AHEAD_GROUPS = 64
_LOOK_AHEAD_DOCUMENTS, _LOOK_AHEAD_CHARS = 256, 4_000_000  # once there are two groups
_SINGLE_GROUP_CHARS = 64_000_000  # after so much text of one group, no other is expected
_PIECE_CHARS = 1 << 16  # long texts are encoded in pieces, so that a small budget stays cheap
_BATCH_CHARS = 1 << 18


def assign(
    stream: Iterator[Document], by: SplitBy, fractions: Mapping[str, float], seed: int
) -> tuple[Callable[[Document], str] | None, Iterator[Document]]:
    """The part of each document, and the stream again with what was read ahead put back.

    `fractions` are those of the parts other than "train". The function is None if there is too little to divide.
    """
    fractions = {part: fraction for part, fraction in fractions.items() if fraction > 0}
    if not fractions:
        return (lambda _: "train"), stream
    apart = sum(fractions.values())
    ahead: list[Document] = []
    units: set[str] = set()
    n_chars = 0
    for document in stream:
        ahead.append(document)
        units.add(_unit(document, by))
        n_chars += len(document.text)
        long = len(ahead) >= _LOOK_AHEAD_DOCUMENTS or n_chars >= _LOOK_AHEAD_CHARS
        if len(units) >= _LOOK_AHEAD_GROUPS or (long and len(units) > 1) or n_chars >= _SINGLE_GROUP_CHARS:
            break
    if len(units) < 2:
        return None, stream
    n_apart = min(max(1, round(len(units) * apart)), len(units) - 1)
    kept = set(sorted(units, key=lambda unit: _place(seed, unit))[:n_apart])

    def part_of(document: Document) -> str:
        unit = _unit(document, by)
        if unit not in kept if unit in units else _place(seed, unit) >= apart:
            return "train"
        # The pieces of one long text (name, name#2, …) stay together.
        place = apart * _place(seed, f"apart/{document.name.partition('#')[0]}")
        ends = itertools.accumulate(fractions.values())
        return next((part for part, end in zip(fractions, ends, strict=True) if place < end), "heldout")

    return part_of, itertools.chain(ahead, stream)


def _unit(document: Document, by: SplitBy) -> str:
    return document.group if by == "group" else document.name


def _place(seed: int, unit: str) -> float:
    """Uniform in [0, 1), the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{unit}".encode()).digest()[:8]) / 2**64


def interleave(sources: Sequence[Source]) -> Iterator[Document]:
    """Documents of all sources, each next one from the source that gave the fewest characters so far."""
    streams = {index: source.documents() for index, source in enumerate(sources)}
    given = dict.fromkeys(streams, 0)
    while streams:
        index = min(streams, key=lambda index: (given[index], index))
        document = next(streams[index], None)
        if document is None:
            del streams[index]
        else:
            given[index] += len(document.text)
            yield document


def batches(stream: Iterable[tuple[str, Document]]) -> Iterator[list[tuple[str, Document, str]]]:
    """(part, document, piece of its text), in batches of about `_BATCH_CHARS` characters."""
    batch: list[tuple[str, Document, str]] = []
    n_chars = 0
    for part, document in stream:
        for text in _pieces(document.text):
            batch.append((part, document, text))
            n_chars += len(text)
            if n_chars >= _BATCH_CHARS:
                yield batch
                batch, n_chars = [], 0
    if batch:
        yield batch


def _pieces(text: str) -> Iterator[str]:
    """The text cut before a white space wherever it is longer than `_PIECE_CHARS`."""
    start = 0
    while len(text) - start > _PIECE_CHARS:
        end = start + _PIECE_CHARS
        cut = max(text.rfind("\n", start + 1, end), text.rfind(" ", start + 1, end))
        cut = cut if cut > start else end
        yield text[start:cut]
        start = cut
    yield text[start:]
