"""Activations on disk: written shuffled and resumable, read back by memory map; or any array of rows in their place."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
