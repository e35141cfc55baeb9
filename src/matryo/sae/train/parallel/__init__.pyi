from .processes import LostProcessError, OtherProcessError, Processes, open_processes, started_by_torchrun
from .sharing import MODES, Parallel

__all__ = [
    "MODES",
    "LostProcessError",
    "OtherProcessError",
    "Parallel",
    "Processes",
    "open_processes",
    "started_by_torchrun",
]
