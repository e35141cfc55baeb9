"""Training: any iterable of (batch, d_in), any number of autoencoders, one pass."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
