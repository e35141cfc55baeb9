from .evaluate import evaluate, evaluate_gradients, evaluate_many
from .forms import CURVES, Curve, curve

__all__ = ["CURVES", "Curve", "curve", "evaluate", "evaluate_gradients", "evaluate_many"]
