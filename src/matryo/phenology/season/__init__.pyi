from .definitions import DEFINITIONS, METRICS, Metric
from .measure import Measured, measure

__all__ = ["DEFINITIONS", "METRICS", "Measured", "Metric", "measure"]
