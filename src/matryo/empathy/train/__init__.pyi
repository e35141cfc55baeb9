from .checkpoint import Checkpoints
from .loop import Interrupted, Training, train

__all__ = ["Checkpoints", "Interrupted", "Training", "train"]
