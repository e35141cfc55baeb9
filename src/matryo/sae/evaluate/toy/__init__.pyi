from .experiment import Toy, run_toy
from .recovery import Found, Recovery, measure_recovery
from .training import DenseConfig, train_dense
from .tree import Draws, Tree, World, generated_tree, paper_tree

__all__ = [
    "DenseConfig",
    "Draws",
    "Found",
    "Recovery",
    "Toy",
    "Tree",
    "World",
    "generated_tree",
    "measure_recovery",
    "paper_tree",
    "run_toy",
    "train_dense",
]
