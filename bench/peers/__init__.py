"""One file per library; each says which kinds it offers."""

from bench.contender import Contender
from bench.peers import dictionary_learning, matryo, overcomplete, saelens, sparsify

LIBRARIES = (matryo, saelens, dictionary_learning, sparsify, overcomplete)


def contenders(kind: str) -> list[Contender]:
    """All contenders of a kind, ours first."""
    return [contender for library in LIBRARIES for contender in library.offers(kind)]
