"""From fitted seasons and daily weather to a table of targets and drivers, without looking past the event."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
