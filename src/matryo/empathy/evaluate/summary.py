"""Episodes of many members → numbers for each group of seeds, and comparisons of groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from matryo.empathy.evaluate.episodes import Episodes
from matryo.empathy.evaluate.intervals import (
    Interval,
    estimate,
    paired_difference,
    probability_of_improvement,
)

METRICS = ("steps", "others_killed", "got_killed", "total", "coins", "other_coins", "equality")
LESS_IS_BETTER = ("others_killed", "got_killed")


@dataclass(frozen=True)
class Group:
    """Members that differ in their seed only."""

    name: str
    seeds: tuple[int, ...]
    per_seed: dict[str, tuple[float, ...]]
    "by metric, the mean over episodes of each seed"
    iqm: dict[str, Interval]
    "by metric, the interquartile mean over seeds"


@dataclass(frozen=True)
class Comparison:
    """A group beside the baseline, by the seeds that both have."""

    group: str
    baseline: str
    metric: str
    difference: Interval
    "baseline − group, mean over paired seeds"
    improvement: Interval
    "probability that a run of the group is better than one of the baseline: fewer deaths, more of anything else"
    seeds: int


def summarise(
    members: Sequence[tuple[str, int]], episodes: Episodes, resamples: int = 2000, seed: int = 0
) -> dict[str, Group]:
    """Numbers of each group.

    Args:
        members: Group and seed of each policy of `episodes`, in order.
        episodes: What they did.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    means = {metric: getattr(episodes, metric).mean(1) for metric in METRICS}
    groups: dict[str, Group] = {}
    for name in dict.fromkeys(group for group, _ in members):
        where = sorted((s, i) for i, (group, s) in enumerate(members) if group == name)
        index = [i for _, i in where]
        groups[name] = Group(
            name,
            tuple(s for s, _ in where),
            {metric: tuple(values[index].tolist()) for metric, values in means.items()},
            {metric: estimate(values[index], resamples=resamples, seed=seed) for metric, values in means.items()},
        )
    return groups


def compare(groups: dict[str, Group], baseline: str, resamples: int = 2000, seed: int = 0) -> list[Comparison]:
    """Each group that shares seeds with the baseline, beside it; nothing if there is no such group."""
    made = []
    base = groups.get(baseline)
    for group in groups.values() if base else ():
        assert base is not None
        shared = [s for s in base.seeds if s in group.seeds]
        if group.name == baseline or len(shared) < 2:
            continue
        for metric in ("others_killed", "equality", "steps"):
            a = np.array([base.per_seed[metric][base.seeds.index(s)] for s in shared])
            b = np.array([group.per_seed[metric][group.seeds.index(s)] for s in shared])
            sign = -1 if metric in LESS_IS_BETTER else 1
            made.append(
                Comparison(
                    group.name,
                    baseline,
                    metric,
                    paired_difference(a, b, resamples, seed),
                    probability_of_improvement(sign * b, sign * a, resamples, seed),
                    len(shared),
                )
            )
    return made
