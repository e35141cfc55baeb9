"""Which documents are held out, and the order in which several sources are read.

The split. Each group gets u = hash(seed, group) ∈ [0, 1). Of the groups met in the first documents (up to 64 groups
or about 256 documents), the fraction with the smallest u is held out, the fraction after it set aside for calibration,
at least one group each and one left to train on; groups met later go by their u. So it depends on the seed and on the
text, not on the budget. Where this leaves a part without a full row, the unit of the split becomes the document, and at
last the row (the last rows are held out, those before them set aside); `TokenRows.split_by` records which it was.
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

    `fractions` are those of the parts other than "train", in the order of u. The function is None if there are fewer
    units than parts.
    """
    fractions = {part: fraction for part, fraction in fractions.items() if fraction > 0}
    if not fractions:
        return (lambda _: "train"), stream
    ahead: list[Document] = []
    units: set[str] = set()
    n_chars = 0
    for document in stream:
        ahead.append(document)
        units.add(_unit(document, by))
        n_chars += len(document.text)
        long = len(ahead) >= _LOOK_AHEAD_DOCUMENTS or n_chars >= _LOOK_AHEAD_CHARS
        if len(units) >= _LOOK_AHEAD_GROUPS or (long and len(units) > len(fractions)) or n_chars >= _SINGLE_GROUP_CHARS:
            break
    if len(units) <= len(fractions):
        return None, stream
    in_order = sorted(units, key=lambda unit: _place(seed, unit))
    known: dict[str, str] = {}
    for index, (part, fraction) in enumerate(fractions.items()):
        left = len(units) - len(known) - (len(fractions) - index)  # each later part, "train" among them, needs one
        count = min(max(1, round(len(units) * fraction)), left)
        known |= dict.fromkeys(in_order[len(known) : len(known) + count], part)

    def part_of(document: Document) -> str:
        unit = _unit(document, by)
        if unit in units:
            return known.get(unit, "train")
        place = _place(seed, unit)
        for part, fraction in fractions.items():
            if place < fraction:
                return part
            place -= fraction
        return "train"

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
