"""What every text source yields, and what it must be able to say about itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Document:
    """One text.

    Attributes:
        text: The text itself, never empty.
        name: Unique within its source, e.g. `sotu/1861_abraham_lincoln_r`.
        group: Unit of the split: documents of one group are never in two of its parts.
        stratum: Kind of text, of which every part of the split gets the same share; "" where a source has one kind.
    """

    text: str
    name: str
    group: str
    stratum: str = ""


class Source(Protocol):
    """A re-iterable stream of documents."""

    @property
    def spec(self) -> str:
        """The specification the source was opened with, e.g. `pack:sotu`."""
        ...

    def documents(self) -> Iterator[Document]:
        """Start over and yield every document, always in the same order."""
        ...

    def describe(self) -> dict[str, Any]:
        """Kind, versions, hashes and licence: what a manifest needs to name this text. JSON-ready."""
        ...


def in_hash_order(documents: Iterable[Document]) -> list[Document]:
    """Documents in the order of the SHA-256 of their names.

    A corpus listed by year, genre or label gives a short prefix of one kind only; this fixed shuffle does not, and
    needs no seed.
    """
    return sorted(documents, key=lambda document: hashlib.sha256(document.name.encode()).digest())
