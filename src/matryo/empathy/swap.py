"""The exchange of perspectives: what I see ⇄ what the other sees, and how several others become one value."""

from typing import Literal

import numpy as np

Aggregation = Literal["closest", "mean", "minimum"]
AGGREGATIONS = ("closest", "mean", "minimum")


def exchange(views: np.ndarray, other: int = 0) -> np.ndarray:
    """Give the learner's seat to another agent and that agent's to the learner: (…, A, planes, 5, 5), same shape.

    Applied twice it changes nothing. Every view draws the same board about another cell and all agents alike, so that
    no identity has to be relabelled.

    Args:
        views: The views of all agents, the learner's first.
        other: With whom: 0 is the first other.
    """
    agents = views.shape[-4]
    if not 0 <= other < agents - 1:
        raise ValueError(f"other is {other}; expected 0 to {agents - 2}")
    order = np.arange(agents)
    order[[0, other + 1]] = other + 1, 0
    return views.take(order, axis=-4)


def share(counted: np.ndarray, distance: np.ndarray, how: Aggregation) -> np.ndarray:
    """How much each other's value weighs in the aggregate: (…, others), from masks and distances of the same shape.

    closest: 1 for the closest of those that count (the first of several), and 0 if none does. mean and minimum:
    1/others and 1 for those that count; for the minimum these are factors, see `aggregate`. Those that do not count
    stand for 0.
    """
    if how == "closest":
        far = np.where(counted, distance, np.inf)
        nearest = np.arange(counted.shape[-1]) == far.argmin(-1)[..., None]
        return (nearest & counted).astype(np.float32)
    return counted.astype(np.float32) / (counted.shape[-1] if how == "mean" else 1)


def aggregate(values: np.ndarray, shares: np.ndarray, how: Aggregation) -> np.ndarray:
    """One value from several others', (…, others) → (…): Σ share · value, or min of share · value for the minimum."""
    weighted = values * shares
    return weighted.min(-1) if how == "minimum" else weighted.sum(-1)
