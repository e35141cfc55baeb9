from .index import Index, IndexedSAE, Member, Vocabulary, build_index, open_index

__all__ = ["Index", "IndexedSAE", "Member", "Vocabulary", "build_index", "open_index"]
