"""Models of a date from its drivers, honest baselines, and nested cross-validation by years, plots and both."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
