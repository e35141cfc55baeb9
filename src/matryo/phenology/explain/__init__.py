"""What drives a date and by how much: Shapley values, accumulated local effects, slopes with clustered errors."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
