"""Meta-SAEs: autoencoders of an autoencoder's decoder rows. Knows of no language model, text or store."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
