"""Season curves on rasters: xarray in, xarray out, block by block, on threads or on a dask cluster."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
