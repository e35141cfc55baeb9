"""One pass over tokens → memory-mapped arrays from which every page is read."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
