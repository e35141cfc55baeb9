from .downstream import Downstream, measure_downstream
from .passages import Passage, Passages, collect_passages
from .reconstruction import Reconstruction, measure_reconstruction

__all__ = [
    "Downstream",
    "Passage",
    "Passages",
    "Reconstruction",
    "collect_passages",
    "measure_downstream",
    "measure_reconstruction",
]
