"""How good an autoencoder is: reconstruction, what the language model loses, what its latents respond to."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
