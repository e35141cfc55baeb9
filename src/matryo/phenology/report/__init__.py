"""The page a reviewer reads: data, fits, flags, scores, explanations, slopes, methods, versions."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
