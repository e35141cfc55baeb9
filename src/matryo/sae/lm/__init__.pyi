from .capturing import capture
from .continuing import capture_endings
from .load import load_lm
from .model import LM
from .processing import processed
from .sites import Site, resolve_site, transformer_lens_name
from .splicing import splice

__all__ = [
    "LM",
    "Site",
    "capture",
    "capture_endings",
    "load_lm",
    "processed",
    "resolve_site",
    "splice",
    "transformer_lens_name",
]
