from .baselines import measure_baselines, refit_encoder
from .config import MetaConfig
from .decompose import Decomposition, Part, decompose
from .edits import MetaEdit, MetaSteering
from .fit import decoder_directions, fit_meta
from .neighbours import EdgeOverlap, measure_overlap, nearest
from .paired import PairedGap, family_of, find_families, measure_gap, pair_up
from .planted import explain_planted
from .splits import FamilyStudy, Split, study_family
from .study import MetaScores, MetaStudy, study_meta

__all__ = [
    "Decomposition",
    "EdgeOverlap",
    "FamilyStudy",
    "MetaConfig",
    "MetaEdit",
    "MetaScores",
    "MetaSteering",
    "MetaStudy",
    "PairedGap",
    "Part",
    "Split",
    "decoder_directions",
    "decompose",
    "explain_planted",
    "family_of",
    "find_families",
    "fit_meta",
    "measure_baselines",
    "measure_gap",
    "measure_overlap",
    "nearest",
    "pair_up",
    "refit_encoder",
    "study_family",
    "study_meta",
]
