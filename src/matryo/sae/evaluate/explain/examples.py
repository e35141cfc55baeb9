"""The windows of text that explain a latent and test its explanation, chosen as SAEBench does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matryo.sae.evaluate.explain.config import ExplainConfig

Place = tuple[int, int]


@dataclass(frozen=True)
class Example:
    """A window: tokens first … first + len(values) − 1 of a row."""

    row: int
    first: int
    values: tuple[float, ...]
    "The latent's activation on every token."
    active: tuple[bool, ...]
    "Whether that is above the threshold."
    random: bool = False
    "Whether the window was drawn from anywhere."

    @property
    def fires(self) -> bool:
        """Whether any token is active."""
        return any(self.active)


@dataclass(frozen=True)
class Examples:
    """One latent's windows."""

    shown: tuple[Example, ...]
    "What its explanation is made from, the strongest first."
    tests: tuple[Example, ...]
    "What it is scored on, in random order."


def draw_examples(
    acts: Float[Tensor, "rows positions"], config: ExplainConfig, random: np.random.Generator
) -> Examples | None:
    """Draw a latent's windows; None when it fires too seldom for any weaker ones.

    Windows have `explain_context` tokens on either side of their middle, and middles keep that far from a row's ends.
    None of the strongest windows has its middle in another; weaker ones have their middle below all of those, and are
    drawn without replacement with probabilities ∝ activation². Each kind is divided at random between explanation and
    test.
    SAEBench takes random windows to be inactive; here they are what they are (see `Example.random`).

    Raises:
        ValueError: rows shorter than a window.
    """
    around = config.explain_context
    length = acts.shape[1]
    if length < 2 * around + 1:
        raise ValueError(f"rows have {length} tokens; expected a window of {2 * around + 1}: lower explain_context")
    inner = acts[:, around : length - around]
    n_top, n_weighted = (
        config.explain_top + config.explain_test_top,
        config.explain_weighted + config.explain_test_weighted,
    )
    top = _strongest(inner, n_top, around)
    if not top:
        return None
    weakest = min(float(inner[place]) for place in top)
    weaker = _weighted(torch.where(inner >= weakest, 0.0, inner), n_weighted, random)
    if not weaker:
        return None
    places = [divmod(int(i), inner.shape[1]) for i in random.integers(inner.numel(), size=config.explain_test_random)]
    largest = max(float(acts[row, column : column + 2 * around + 1].max()) for row, column in top)
    limit = config.explain_threshold * largest

    def window(place: Place, drawn: bool = False) -> Example:
        row, first = place
        values = tuple(acts[row, first : first + 2 * around + 1].tolist())
        return Example(row, first, values, tuple(value > limit for value in values), drawn)

    shown, tests = [], []
    for kind, wanted in ((top, config.explain_test_top), (weaker, config.explain_test_weighted)):
        order = random.permutation(len(kind)).tolist()
        # Where there are fewer than wanted, the test has its share first: without it there is nothing to score.
        cut = min(wanted, len(kind) - 1) if kind is top else min(wanted, len(kind))
        tests += [window(kind[i]) for i in order[:cut]]
        shown += [window(kind[i]) for i in order[cut:]]
    tests += [window(place, True) for place in places]
    shown.sort(key=lambda example: -max(example.values))
    return Examples(tuple(shown), tuple(tests[i] for i in random.permutation(len(tests))))


def _strongest(inner: Tensor, count: int, apart: int) -> list[Place]:
    """The places of the largest positive values, none within `apart` of a larger one in its row."""
    row, column = inner.nonzero(as_tuple=True)
    order = inner[row, column].argsort(descending=True, stable=True)
    chosen: list[Place] = []
    for r, c in zip(row[order].tolist(), column[order].tolist(), strict=True):
        if all(r != other or abs(c - place) > apart for other, place in chosen):
            chosen.append((r, c))
            if len(chosen) == count:
                break
    return chosen


def _weighted(inner: Tensor, count: int, random: np.random.Generator) -> list[Place]:
    """Places drawn without replacement with probabilities ∝ value²."""
    row, column = inner.nonzero(as_tuple=True)
    weights = inner[row, column].double().square().numpy()
    if not len(weights):
        return []
    chosen = random.choice(len(weights), min(count, len(weights)), replace=False, p=weights / weights.sum())
    return [(int(row[i]), int(column[i])) for i in chosen]
