from .checkpoint import Checkpoints
from .config import TrainConfig
from .loop import Interrupted, TrainResult, train

__all__ = ["Checkpoints", "Interrupted", "TrainConfig", "TrainResult", "train"]
