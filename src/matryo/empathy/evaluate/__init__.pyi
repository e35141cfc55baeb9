from .aliased import learn_tables
from .chain import CoexistenceChain, ExactOutcome
from .episodes import Episodes, Policy, play
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
    "Comparison",
    "Group",
    "compare",
    "summarise",
    "CoexistenceChain",
    "Episodes",
    "Frame",
    "ExactOutcome",
    "Interval",
    "Policy",
    "Recording",
    "cumulative_incidence",
    "estimate",
    "interquartile_mean",
    "learn_tables",
    "mean_over_runs",
    "paired_difference",
    "play",
    "probability_of_improvement",
    "record",
]
