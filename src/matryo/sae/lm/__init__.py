"""The model under study: loading it, reading activations at its sites, and replacing them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
