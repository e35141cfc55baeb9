"""What a latent responds to, in words: from a template, or by a judge, and how well the words predict its firing."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
