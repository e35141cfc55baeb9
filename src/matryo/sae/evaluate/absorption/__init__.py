"""Feature absorption: how often a concept's own latent is silent because the latent of a special case speaks for it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
