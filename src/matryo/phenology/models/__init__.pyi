from .config import BASELINES, MODELS, SCHEMES, ModelConfig
from .estimators import Fitted, fit_model
from .mixed import MixedFit, fit_mixed
from .scores import Scores, score
from .splits import Split, make_splits
from .study import Study, make_study
from .validate import Validation, count_folds, validate
from .weights import between_variance, weights_of

__all__ = [
    "BASELINES",
    "MODELS",
    "SCHEMES",
    "Fitted",
    "MixedFit",
    "ModelConfig",
    "Scores",
    "Split",
    "Study",
    "Validation",
    "between_variance",
    "count_folds",
    "fit_mixed",
    "fit_model",
    "make_splits",
    "make_study",
    "score",
    "validate",
    "weights_of",
]
