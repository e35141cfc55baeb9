"""WordNet's nouns as a graph: senses of a word, and what a sense is a kind of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matryo.sae.text.pack_readers import read_members


@dataclass(frozen=True)
class Nouns:
    """The noun synsets of WordNet, by their offset in its data file."""

    senses: dict[str, tuple[str, ...]]
    "For every word or phrase, with spaces, its synsets, the commonest sense first."
    names: dict[str, str]
    "The first word of every synset."
    above: dict[str, tuple[str, ...]]
    "What a synset is a kind of, or an instance of."

    def kinds(self, synset: str) -> Iterator[tuple[str, ...]]:
        """Every path from a synset up to the root, the synset first; the path of first-named kinds comes first."""
        paths = [(synset,)]
        while paths:
            path = paths.pop()
            higher = [up for up in self.above.get(path[-1], ()) if up not in path]
            if not higher:
                yield path
            paths += [(*path, up) for up in reversed(higher)]


def read_nouns(archive: Path) -> Nouns:
    """The nouns of the WordNet pack's archive, in the format of `man 5 wndb`."""
    wanted = {"package/dict/index.noun", "package/dict/data.noun"}
    members = read_members(archive, wanted.__contains__)
    senses, names, above = {}, {}, {}
    for fields in _lines(members["package/dict/index.noun"]):
        # lemma pos synsets pointers [symbols …] senses tagged offsets …
        count = int(fields[2])
        senses[fields[0].replace("_", " ")] = tuple(fields[-count:])
    for fields in _lines(members["package/dict/data.noun"]):
        # offset file type words [word number …] pointers [symbol offset pos place …] | gloss
        words = int(fields[3], 16)
        names[fields[0]] = fields[4].replace("_", " ")
        at = 4 + 2 * words
        pointers = fields[at + 1 : at + 1 + 4 * int(fields[at])]
        above[fields[0]] = tuple(pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i"))
    return Nouns(senses, names, above)


def _lines(content: bytes) -> Iterator[list[str]]:
    for line in content.decode().splitlines():
        if not line.startswith("  "):  # the licence at the head of the file
            yield line.partition(" | ")[0].split()
