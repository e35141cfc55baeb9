from . import meta

__all__ = ["meta"]
