"""The autoencoders: ReLU, Gated, TopK, BatchTopK and JumpReLU, each with or without Matryoshka levels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
