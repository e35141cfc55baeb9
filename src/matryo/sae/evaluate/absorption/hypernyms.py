"""The nouns of WordNet by the kinds they are of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matryo.sae.evaluate.absorption.words import Words, labelled_words
from matryo.sae.text import PACKS, PackSource
from matryo.sae.text.wordnet import Nouns, read_nouns

if TYPE_CHECKING:
    from matryo.sae.lm import LM

PARENTS = {
    "person": ("person", 0),
    "animal": ("animal", 0),
    "plant": ("plant", 1),
    "food": ("food", 0),
    "body part": ("body part", 0),
    "location": ("location", 0),
    "feeling": ("feeling", 0),
    "act": ("act", 1),
    "artifact": ("artifact", 0),
    "communication": ("communication", 1),
}
"""Each class by a word and which of its senses: kinds with a hundred or more words that are one token of SmolLM2."""


def wordnet_words(lm: LM) -> Words:
    """Lower-case nouns of more than three letters that are one token, by what their commonest sense is a kind of.

    Nouns of no class are negatives. A word's child is the kind directly below its class.

    Raises:
        OSError: the WordNet pack cannot be fetched.
        ValueError: no noun is a single token of the model.
    """
    pack = PACKS["wordnet"]
    nouns = read_nouns(PackSource(pack).archive())
    kinds = {
        word: classes_of(nouns, word) for word in nouns.senses if len(word) > 3 and word.isascii() and word.isalpha()
    }
    return labelled_words(lm, "wordnet", kinds, PARENTS, pack.sha256)


def classes_of(nouns: Nouns, word: str) -> list[tuple[str, str | None]]:
    """(class, child) of every class that a noun's first sense is a kind of."""
    tops = {nouns.senses[lemma][sense]: name for name, (lemma, sense) in PARENTS.items()}
    first = nouns.senses[word][0]
    found: dict[str, str | None] = {}
    for path in nouns.kinds(first):
        for below, synset in enumerate(path):
            if synset in tops:
                child = nouns.names[path[below - 1]] if below else None
                found.setdefault(tops[synset], child)
    return [(name, found[name]) for name in PARENTS if name in found]
