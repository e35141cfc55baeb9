from . import meta
from .config import PAPER_THRESHOLD, StitchConfig
from .greedy import greedy_units
from .insertion import Insertion, measure_insertions
from .match import Edges, Nearest, assign_rows, match_rows, similar_pairs
from .page import write_page
from .pairs import STATUSES, Compared, by_sizes, compare_pairs, merge_novel
from .path import Path, Trace, Unit, measured_steps, path_of, published_units, trace_path
from .roc import Roc, agreement, roc_of
from .stitch import as_jumprelu, join, same_latents
from .tables import edges_table, latents_table, pairs_table, phase_scores, steps_table, write_table

__all__ = [
    "PAPER_THRESHOLD",
    "STATUSES",
    "Compared",
    "Edges",
    "Insertion",
    "Nearest",
    "Path",
    "Roc",
    "StitchConfig",
    "Trace",
    "Unit",
    "agreement",
    "as_jumprelu",
    "assign_rows",
    "by_sizes",
    "compare_pairs",
    "edges_table",
    "greedy_units",
    "join",
    "latents_table",
    "match_rows",
    "measure_insertions",
    "measured_steps",
    "merge_novel",
    "meta",
    "pairs_table",
    "path_of",
    "phase_scores",
    "published_units",
    "roc_of",
    "same_latents",
    "similar_pairs",
    "steps_table",
    "trace_path",
    "write_page",
    "write_table",
]
