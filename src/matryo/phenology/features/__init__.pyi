from .config import FEATURES, TARGETS, FeatureConfig
from .daily import Daily, read_daily
from .seasons import Seasons, fit_seasons
from .windows import build_features, earliest, note_uncovered

__all__ = [
    "FEATURES",
    "TARGETS",
    "Daily",
    "FeatureConfig",
    "Seasons",
    "build_features",
    "earliest",
    "fit_seasons",
    "note_uncovered",
    "read_daily",
]
