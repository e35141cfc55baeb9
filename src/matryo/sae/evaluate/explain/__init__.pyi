from .config import ExplainConfig
from .examples import Example, Examples, draw_examples
from .firings import Firings, collect_firings
from .judge import Judge
from .templated import Templated, describe

__all__ = [
    "Example",
    "Examples",
    "ExplainConfig",
    "Firings",
    "Judge",
    "Templated",
    "collect_firings",
    "describe",
    "draw_examples",
]
