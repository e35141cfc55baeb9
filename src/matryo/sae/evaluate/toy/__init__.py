"""Toy worlds: activations made of planted features that form a tree, so that recovery can be measured exactly."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
