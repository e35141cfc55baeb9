"""Autoencoders of one site compared: which latents match, which are new, and the way from one to another."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
