"""Which documents are trained on, and the order in which several sources are read.

The split keeps groups whole. Each group, when it is first met, gets a place u ∈ [0, 1): held out where u < h, set aside
for calibration where h ≤ u < h + c, trained on elsewhere (h, c the two fractions). For a group without a stratum u is a
hash of seed and group. Groups of a stratum (a kind of text, such as a package) get theirs by permuted blocks: of every
n successive groups of the stratum one falls into each nth of [0, 1), in an order drawn from the seed (`_block`).
Every part is then a sample of every stratum in the same proportion, and what is set on one part holds on another up to
sampling error. Of the groups met in the first documents (up to 64 groups or about 256 documents) exactly the fractions
are taken, smallest places first and at least one group for each part. So the split depends on the seed and on the
text, not on the budget. Where it leaves a part without a full row, the unit becomes the document, and at last the row
(the last rows are held out, those before them calibrated on); `TokenRows.split_by` records which it was.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from matryo.sae.text.documents import Document, Source

SplitBy = Literal["group", "document", "row"]

_LARGEST_BLOCK = 20  # groups; fractions down to 5 % are met exactly in every whole block
_LOOK_AHEAD_GROUPS = 64
_LOOK_AHEAD_DOCUMENTS, _LOOK_AHEAD_CHARS = 256, 4_000_000  # once there is a group for each part
_SINGLE_GROUP_CHARS = 64_000_000  # after so much text of fewer groups than parts, no other is expected
_PIECE_CHARS = 1 << 16  # long texts are encoded in pieces, so that a small budget stays cheap
_BATCH_CHARS = 1 << 18


def assign(
    stream: Iterator[Document], by: SplitBy, fractions: Mapping[str, float], seed: int
) -> tuple[Callable[[Document], str] | None, Iterator[Document]]:
    """The part of each document, and the stream again with what was read ahead put back.

    `fractions` are those of the parts other than "train". The function must be asked in the order of the stream. It is
    None if there is too little to divide.
    """
    fractions = {part: fraction for part, fraction in fractions.items() if fraction > 0}
    if not fractions:
        return (lambda _: "train"), stream
    places = _Places(seed, _block(fractions.values()))
    ahead: list[Document] = []
    met: dict[str, float] = {}
    n_chars = 0
    for document in stream:
        ahead.append(document)
        unit = _unit(document, by)
        if unit not in met:
            met[unit] = places.draw(unit, document.stratum)
        n_chars += len(document.text)
        long = len(ahead) >= _LOOK_AHEAD_DOCUMENTS or n_chars >= _LOOK_AHEAD_CHARS
        enough = len(met) > len(fractions)
        if len(met) >= _LOOK_AHEAD_GROUPS or (long and enough) or n_chars >= _SINGLE_GROUP_CHARS:
            break
    if len(met) <= len(fractions):
        return None, stream
    counts = {part: max(1, round(len(met) * fraction)) for part, fraction in fractions.items()}
    while sum(counts.values()) >= len(met):
        counts[max(counts, key=lambda part: counts[part])] -= 1
    ranked = iter(sorted(met, key=lambda unit: met[unit]))
    part_of = {unit: part for part, count in counts.items() for unit in itertools.islice(ranked, count)}
    part_of |= dict.fromkeys(ranked, "train")

    def part(document: Document) -> str:
        unit = _unit(document, by)
        if unit in part_of:
            return part_of[unit]
        place = places.draw(unit, document.stratum)
        ends = itertools.accumulate(fractions.values())
        found = next((name for name, end in zip(fractions, ends, strict=True) if place < end), "train")
        if document.stratum:  # without, the place follows from the name: endless streams need not be remembered
            part_of[unit] = found
        return found

    return part, itertools.chain(ahead, stream)


def _block(fractions: Iterable[float]) -> int:
    """Groups in a block: as few as have whole numbers for all parts, so that a stratum's last block matters little."""
    fractions = list(fractions)
    exact = (n for n in range(2, _LARGEST_BLOCK) if all(abs(n * f - round(n * f)) < 1e-9 for f in fractions))
    return next(exact, _LARGEST_BLOCK)


class _Places:
    """Places in [0, 1), the same on every machine: by permuted blocks within strata, by hash without."""

    def __init__(self, seed: int, block: int) -> None:
        self.seed, self.block = seed, block
        self.left: dict[str, list[int]] = {}
        self.blocks: Counter[str] = Counter()

    def draw(self, unit: str, stratum: str) -> float:
        """The place of a stratum's next new unit."""
        if not stratum:
            return self._uniform(unit)
        if not self.left.get(stratum):
            block = f"{stratum}/{self.blocks[stratum]}"
            self.blocks[stratum] += 1
            self.left[stratum] = sorted(range(self.block), key=lambda cell: self._uniform(f"{block}/{cell}"))
        return (self.left[stratum].pop() + self._uniform(unit)) / self.block

    def _uniform(self, name: str) -> float:
        return int.from_bytes(hashlib.sha256(f"{self.seed}/{name}".encode()).digest()[:8]) / 2**64


def _unit(document: Document, by: SplitBy) -> str:
    return document.group if by == "group" else document.name


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
