from .aliased import learn_tables
from .chain import CoexistenceChain, ExactOutcome
from .episodes import Episodes, Policy, play
from .graph import ExactShares, SharingGraph
from .hidden import collect_hidden
from .intervals import (
    Interval,
    cumulative_incidence,
    estimate,
    interquartile_mean,
    mean_over_runs,
    paired_difference,
    probability_of_improvement,
)
from .recording import Frame, Recording, record
from .summary import METRICS, Comparison, Group, compare, summarise

__all__ = [
    "METRICS",
    "CoexistenceChain",
    "Comparison",
    "Episodes",
    "ExactOutcome",
    "ExactShares",
    "Frame",
    "Group",
    "Interval",
    "Policy",
    "Recording",
    "SharingGraph",
    "collect_hidden",
    "compare",
    "cumulative_incidence",
    "estimate",
    "interquartile_mean",
    "learn_tables",
    "mean_over_runs",
    "paired_difference",
    "play",
    "probability_of_improvement",
    "record",
    "summarise",
]
