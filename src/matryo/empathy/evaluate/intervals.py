"""Interval estimates over seeds: interquartile mean, stratified bootstrap, probability of improvement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from matryo.spine.seeding import numpy_generator

Statistic = Callable[[np.ndarray], np.ndarray]
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Whether a value lies outside."""
        return not self.low <= value <= self.high


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all scores, (…, runs, tasks) → (…): a quarter is cut off at each end.

    As rliable's (scipy.stats.trim_mean with 0.25): ⌊n/4⌋ scores at each end of n = runs · tasks.

    Reference: Agarwal et al., "Deep RL at the Edge of the Statistical Precipice" (NeurIPS 2021).

    Example:
        >>> float(interquartile_mean(np.array([[0.0], [1.0], [2.0], [90.0]])))
        1.5
    """
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    return flat[..., cut : flat.shape[-1] - cut].mean(-1)


def estimate(
    scores: np.ndarray, statistic: Statistic = interquartile_mean, resamples: int = 2000, seed: int = 0
) -> Interval:
    """A statistic of (runs, tasks) scores, runs resampled within each task (the stratum) with replacement."""
    scores = scores[:, None] if scores.ndim == 1 else scores
    runs, tasks = scores.shape
    drawn = numpy_generator(seed, "bootstrap").integers(0, runs, (resamples, runs, tasks))
    return _interval(statistic(scores), statistic(scores[drawn, np.arange(tasks)]))


def mean_over_runs(scores: np.ndarray) -> np.ndarray:
    """Plain mean of (…, runs, tasks)."""
    return scores.mean((-2, -1))


def paired_difference(first: np.ndarray, second: np.ndarray, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean over seeds of first − second, (runs,) each, the same seeds in the same order; seeds are resampled."""
    if first.shape != second.shape:
        raise ValueError(f"{first.size} and {second.size} seeds; expected the same seeds on both sides")
    return estimate(first - second, mean_over_runs, resamples, seed)


def probability_of_improvement(first: np.ndarray, second: np.ndarray, resamples: int = 2000, seed: int = 0) -> Interval:
    """P(a run of first is larger than a run of second), ties counting half: (runs,) each; both sides are resampled."""
    rng = numpy_generator(seed, "improvement")

    def chance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        more, same = a[..., :, None] > b[..., None, :], a[..., :, None] == b[..., None, :]
        return (more + 0.5 * same).mean((-2, -1))

    a = first[rng.integers(0, len(first), (resamples, len(first)))]
    b = second[rng.integers(0, len(second), (resamples, len(second)))]
    return _interval(chance(first, second), chance(a, b))


def _interval(value: np.ndarray, drawn: np.ndarray) -> Interval:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


def cumulative_incidence(at: np.ndarray, horizon: int) -> np.ndarray:
    """Share of episodes with the event at or before each step 0 … horizon; `at` is its step, 0 where it never came.

    With competing risks and no censoring before the horizon this is the Aalen–Johansen estimate: an episode in which
    the learner dies first counts as one in which the event never comes, not as one that is yet to have it.
    """
    steps = at[at > 0].astype(int)
    return np.cumsum(np.bincount(steps[steps <= horizon], minlength=horizon + 1)) / at.size
