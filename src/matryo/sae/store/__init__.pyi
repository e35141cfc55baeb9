from .background import BackgroundWriter
from .batches import ShuffledBatches, in_order
from .config import StoreConfig
from .tables import ActivationStore, ArrayActivations, open_activations
from .writer import StoreWriter

__all__ = [
    "ActivationStore",
    "ArrayActivations",
    "BackgroundWriter",
    "ShuffledBatches",
    "StoreConfig",
    "StoreWriter",
    "in_order",
    "open_activations",
]
