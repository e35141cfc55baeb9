"""The dashboard: an index of SAEs over a text, its pages in a browser, and files to share."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
