from .build import Member, Vocabulary, build_index
from .opened import Index, IndexedSAE, open_index

__all__ = ["Index", "IndexedSAE", "Member", "Vocabulary", "build_index", "open_index"]
