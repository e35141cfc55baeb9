from .experiment import KINDS, Toy, make_world, run_toy, train_in
from .recovery import Found, Recovery, measure_recovery
from .training import DenseConfig, train_dense
from .tree import Draws, Tree, World, families_tree, generated_tree, paper_tree

__all__ = [
    "KINDS",
    "DenseConfig",
    "Draws",
    "Found",
    "Recovery",
    "Toy",
    "Tree",
    "World",
    "families_tree",
    "generated_tree",
    "make_world",
    "measure_recovery",
    "paper_tree",
    "run_toy",
    "train_dense",
    "train_in",
]
