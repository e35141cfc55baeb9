from .fitting import LAYERS, fit_raster, tally
from .reading import open_raster, synthetic_raster

__all__ = ["LAYERS", "fit_raster", "open_raster", "synthetic_raster", "tally"]
