from .config import FitConfig
from .flags import FLAGS, flag_names
from .many import Fits, fit_curves

__all__ = ["FLAGS", "FitConfig", "Fits", "fit_curves", "flag_names"]
