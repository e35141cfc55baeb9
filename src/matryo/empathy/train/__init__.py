"""Training: games, memory and updates of all members of an ensemble in lockstep."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
