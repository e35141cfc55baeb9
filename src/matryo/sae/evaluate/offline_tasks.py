"""Labelled tasks that need no network once their packs are cached: from the text packs and from `pydocs`.

Each reads one pack. Texts are distinct; those of a class are the first by the hash of the text, a sample that needs no
seed and takes from all documents alike.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from matryo.sae.evaluate.tasks import CrossedTask, Task
from matryo.sae.text import PACKS, Document, PackSource, PydocsSource


class Labelled(NamedTuple):
    """A text, its document, and the number of its class or of its quadrant."""

    text: str
    group: str
    label: int


@dataclass(frozen=True)
class OfflineTask:
    """How a task is made: its classes, how many texts of each at most, and where they come from.

    `classes` of a crossed task are a pair of pairs, and labels number its quadrants: 2 · first + second.
    """

    line: str
    classes: Any
    each: int
    read: Callable[[], tuple[Iterable[Labelled], dict[str, Any]]]
    crossed: bool = False


def make_offline(name: str) -> Task | CrossedTask:
    """The task of that name.

    Raises:
        OSError: its pack cannot be fetched.
    """
    made = OFFLINE[name]
    texts, source = made.read()
    chosen = _choose(texts, made.each)
    columns = ([one.text for one in chosen], [one.label for one in chosen], [one.group for one in chosen])
    labels = np.array(columns[1], dtype=np.int64)
    source = source | {"task": made.line}
    if made.crossed:
        both = np.stack([labels // 2, labels % 2], axis=1)
        return CrossedTask(name, tuple(columns[0]), both, made.classes, tuple(columns[2]), source)
    return Task(name, tuple(columns[0]), labels, made.classes, tuple(columns[2]), source)


def _choose(texts: Iterable[Labelled], each: int) -> list[Labelled]:
    distinct = {one.text: one for one in texts}.values()
    ordered = sorted(distinct, key=lambda one: hashlib.sha256(one.text.encode()).digest())
    return [
        one
        for label in sorted({o.label for o in ordered})
        for one in islice((o for o in ordered if o.label == label), each)
    ]


# Packs ----------------------------------------------------------------------------------------------------------

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")
_SHORTEST, _LONGEST = 60, 300  # characters of a sentence: long enough to tell, short enough to be one


def _pack(name: str) -> PackSource:
    return PackSource(PACKS[name])


def _sentences(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield from (s for s in _SENTENCE_END.split(line.strip()) if _SHORTEST <= len(s) <= _LONGEST)


def _read_sotu() -> tuple[Iterator[Labelled], dict[str, Any]]:
    def read() -> Iterator[Labelled]:
        for document in source.documents():
            year = int(document.name.split("/")[1][:4])
            if year < 1900 or year >= 1950:
                yield from (Labelled(s, document.group, int(year >= 1950)) for s in _sentences(document.text))

    source = _pack("sotu")
    return read(), source.describe()


def _read_brown() -> tuple[Iterator[Labelled], dict[str, Any]]:
    def read() -> Iterator[Labelled]:
        for document in source.documents():
            genre = document.name.split("/")[1]
            if genre in _GENRES:
                label = _GENRES.index(genre)
                yield from (Labelled(s, document.group, label) for s in _sentences(document.text))

    source = _pack("brown")
    return read(), source.describe()


_GENRES = ("government", "hobbies", "learned", "news", "romance")


def _read_spam() -> tuple[Iterator[Labelled], dict[str, Any]]:
    def read() -> Iterator[Labelled]:
        for document in source.documents():
            # The subject goes: mailing lists sign it, as in "[ILUG]".
            body = " ".join(document.text.partition("\n\n")[2].split())
            if len(body) >= _SHORTEST:
                # Mails that begin alike are sendings of one.
                yield Labelled(body[:1000], body[:80], int(document.name.split("/")[1] == "spam"))

    source = _pack("spam")
    return read(), source.describe()


def _read_sentiment(
    label: Callable[[str, int], int | None],
) -> Callable[[], tuple[Iterator[Labelled], dict[str, Any]]]:
    def read(source: PackSource) -> Iterator[Labelled]:
        for document in source.documents():
            _, domain, sentiment, _ = document.name.split("/")
            number = label(domain, int(sentiment == "positive"))
            if number is not None:
                yield Labelled(document.text, document.group, number)

    def opened() -> tuple[Iterator[Labelled], dict[str, Any]]:
        source = _pack("sentiment")
        return read(source), source.describe()

    return opened


_DOMAINS = ("amazon", "imdb", "yelp")


def _read_glosses(
    label: dict[tuple[str, int], int],
) -> Callable[[], tuple[Iterator[Labelled], dict[str, Any]]]:
    """Definitions, without their examples, of synsets of some lexicographer files; 32 neighbours are a document."""

    def read(source: PackSource) -> Iterator[Labelled]:
        from matryo.sae.text.pack_readers import wordnet_synsets

        at: Counter[str] = Counter()
        for synset in wordnet_synsets(source.archive()):
            at[synset.pos] += 1
            number = label.get((synset.pos, synset.lexfile))
            definition = synset.gloss.partition('; "')[0].strip()
            if number is not None and len(definition) >= 20:
                yield Labelled(definition, f"{synset.pos}/{at[synset.pos] // 32}", number)

    def opened() -> tuple[Iterator[Labelled], dict[str, Any]]:
        source = _pack("wordnet")
        return read(source), source.describe()

    return opened


# The documentation of installed packages ------------------------------------------------------------------------

_LIBRARIES = ("networkx", "python", "sympy", "torch", "transformers")
_KINDS = ("docs", "source")
_CROSSED = ("torch", "transformers")
_EACH_STRATUM = 500
_SKIPPED = 150  # characters of a source, mostly imports, which name the package; SAEBench skips as many of licences


def _read_pydocs(label: Callable[[str, str], int | None]) -> Callable[[], tuple[Iterator[Labelled], dict[str, Any]]]:
    """Docstrings without their signature, or source without its first lines; `label` of package and kind."""

    def opened() -> tuple[Iterator[Labelled], dict[str, Any]]:
        found = ((label(*stratum), texts) for stratum, texts in _pydocs_texts().items())
        texts = (Labelled(*one, number) for number, ones in found if number is not None for one in ones)
        return texts, _pydocs_source().describe()

    return opened


def _pydocs_source() -> PydocsSource:
    from matryo.sae.text.pydocs import PACKAGES

    return PydocsSource(tuple(package for package in PACKAGES if package[0] in _LIBRARIES))


@lru_cache(maxsize=1)
def _pydocs_texts() -> dict[tuple[str, str], tuple[tuple[str, str], ...]]:
    """(text, module) of every package and kind wanted; read once, no further than enough of each."""
    wanted: dict[tuple[str, str], list[tuple[str, str]]] = {(name, "docs"): [] for name in _LIBRARIES}
    wanted |= {(name, "source"): [] for name in _CROSSED}
    short = set(wanted)
    for document in _pydocs_source().documents():
        package, _, kind = document.stratum.partition("/")
        text = _body(document, kind)
        if (package, kind) in short and len(text) >= _SHORTEST:
            wanted[package, kind].append((text, document.group))
            if len(wanted[package, kind]) == _EACH_STRATUM:
                short.remove((package, kind))
        if not short:
            break  # the order of pydocs mixes all modules
    return {stratum: tuple(texts) for stratum, texts in wanted.items()}


def _body(document: Document, kind: str) -> str:
    if kind == "docs":
        return document.text.partition("\n\n")[2]
    return document.text[_SKIPPED:].partition("\n")[2]


def _library(package: str, kind: str) -> int | None:
    return _LIBRARIES.index(package) if kind == "docs" and package in _LIBRARIES else None


def _kind_and_library(package: str, kind: str) -> int | None:
    return 2 * _KINDS.index(kind) + _CROSSED.index(package) if package in _CROSSED else None


OFFLINE: dict[str, OfflineTask] = {
    "sotu-era": OfflineTask(
        "sentences of State of the Union addresses: before 1900, or from 1950 on",
        ("before 1900", "from 1950"), 1000, _read_sotu,
    ),
    "wordnet-topic": OfflineTask(
        "definitions of nouns by their supersense",
        ("animal", "artifact", "food", "person", "plant"), 500,
        _read_glosses({("noun", number): label for label, number in enumerate((5, 6, 13, 18, 20))}),
    ),
    "brown-genre": OfflineTask("sentences of the Brown corpus by genre", _GENRES, 420, _read_brown),
    "spam": OfflineTask("mails without their subject: spam or not", ("ham", "spam"), 1000, _read_spam),
    "sentiment": OfflineTask(
        "review sentences: negative or positive", ("negative", "positive"), 1500,
        _read_sentiment(lambda domain, positive: positive),
    ),
    "sentiment-domain": OfflineTask(
        "the same sentences: what is reviewed (things, films, restaurants)", _DOMAINS, 1000,
        _read_sentiment(lambda domain, positive: _DOMAINS.index(domain)),
    ),
    "pydocs-library": OfflineTask(
        "docstrings without signatures, by package", _LIBRARIES, 420, _read_pydocs(_library)
    ),
    "sentiment-x-domain": OfflineTask(
        "review sentences: sentiment crossed with domain", (("negative", "positive"), ("amazon", "yelp")), 500,
        _read_sentiment(lambda d, p: 2 * p + ("amazon", "yelp").index(d) if d != "imdb" else None), crossed=True,
    ),
    "wordnet-pos-x-topic": OfflineTask(
        "definitions: noun or verb crossed with cognition or communication",
        (("noun", "verb"), ("cognition", "communication")), 500,
        _read_glosses({("noun", 9): 0, ("noun", 10): 1, ("verb", 31): 2, ("verb", 32): 3}), crossed=True,
    ),
    "pydocs-kind-x-library": OfflineTask(
        "documentation or source crossed with torch or transformers",
        (_KINDS, _CROSSED), _EACH_STRATUM, _read_pydocs(_kind_and_library), crossed=True,
    ),
}  # fmt: skip
"""Every offline task by name."""
