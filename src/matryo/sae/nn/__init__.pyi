from .base import SAE, build
from .batch_topk import BatchTopK
from .config import KINDS, Kind, SAEConfig
from .folder import load_sae
from .gated import Gated
from .jumprelu import JumpReLU
from .loss import Loss
from .relu import ReLU
from .topk import TopK

__all__ = [
    "KINDS",
    "SAE",
    "BatchTopK",
    "Gated",
    "JumpReLU",
    "Kind",
    "Loss",
    "ReLU",
    "SAEConfig",
    "TopK",
    "build",
    "load_sae",
]
