"""Season curves y = f(t; p): Beck, Elmore, Gu, Klosterman, asymmetric Gaussian. t in days, y in NDVI."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
