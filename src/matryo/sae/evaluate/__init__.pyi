from .downstream import Downstream, measure_downstream
from .outcome import Measured, Outcome, Table
from .passages import Passage, Passages, collect_passages
from .reconstruction import Level, Reconstruction, measure_reconstruction
from .subjects import Subjects, open_subjects
from .suite import TASKS, Task

__all__ = [
    "TASKS",
    "Downstream",
    "Level",
    "Measured",
    "Outcome",
    "Passage",
    "Passages",
    "Reconstruction",
    "Subjects",
    "Table",
    "Task",
    "collect_passages",
    "measure_downstream",
    "measure_reconstruction",
    "open_subjects",
]
