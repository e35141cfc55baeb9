"""Weighted, bounded, robust least squares of season curves, many series at once, with the covariance of every fit."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
