"""What autoencoders of one site have in common: latents paired, joined, and taken apart."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
