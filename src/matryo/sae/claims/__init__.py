"""The papers' claims as units of work that can be interrupted, and what they amount to. Imports no torch.

A unit is a harvest, a training run, one evaluation or meta-SAE of one pair of autoencoders, or a toy world; its result
is one JSON file. The table is made of whatever results there are.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
