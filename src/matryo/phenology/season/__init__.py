"""The season's dates and sizes from a fitted curve, by every usual definition, each with its standard error."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
