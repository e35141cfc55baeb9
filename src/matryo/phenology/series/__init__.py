"""NDVI series from long tables: columns, rows that cannot be used, seasons, and the arrays that are fitted."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
