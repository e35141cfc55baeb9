from .capturing import capture
from .load import load_lm
from .model import LM
from .processing import processed
from .sites import Site, resolve_site
from .splicing import splice

__all__ = ["LM", "Site", "capture", "load_lm", "processed", "resolve_site", "splice"]
