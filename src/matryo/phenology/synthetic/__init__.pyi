from .config import SyntheticConfig
from .site import SyntheticSite, make_site

__all__ = ["SyntheticConfig", "SyntheticSite", "make_site"]
