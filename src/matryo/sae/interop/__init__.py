"""Other libraries' sparse autoencoders: read, and written where the format can hold ours exactly."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
