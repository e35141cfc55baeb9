"""Labelled texts: small records, split by document, and the two-class problems drawn from them.

Texts of one document (an address, a mail, a module) are on one side of a split: a probe that knows the document would
otherwise pass for one that knows the class.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.spine.seeding import numpy_generator

TEST_SHARE = 0.25
"""Of every class's texts; SAEBench's sets have 0.2, ours are smaller and need the test texts more."""

LEAST = 10
"""Texts that every class must have on each side of a split: with fewer, one text is more than 5 points of accuracy."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Task:
    """Texts with one label each."""

    name: str
    texts: tuple[str, ...]
    labels: Rows
    "Index into `classes` (texts,)."
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    "The document of every text."
    source: dict[str, Any] = field(default_factory=dict)
    "Where the texts come from: packages, hashes, licence."

    def __post_init__(self) -> None:
        """Check lengths and labels."""
        _check(self.name, self.texts, self.labels, self.groups)
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise ValueError(f"task {self.name}: labels run to {self.labels.max()}; expected below {len(self.classes)}")

    def digest(self) -> str:
        """SHA-256 of texts, labels and documents."""
        return _digest(self.texts, self.labels, self.groups)


@dataclass(frozen=True, eq=False)
class CrossedTask:
    """Texts with two labels of two classes each, for spurious correlation removal."""

    name: str
    texts: tuple[str, ...]
    labels: Rows
    "0 or 1 for each attribute (texts, 2)."
    classes: tuple[tuple[str, str], tuple[str, str]]
    groups: tuple[str, ...]
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check lengths and labels."""
        _check(self.name, self.texts, self.labels, self.groups)
        if self.labels.shape != (len(self.texts), 2) or not np.isin(self.labels, (0, 1)).all():
            raise ValueError(f"task {self.name}: labels {self.labels.shape}; expected 0 or 1, two for each text")

    @property
    def quadrants(self) -> Rows:
        """2 · first label + second label."""
        return self.labels @ np.array([2, 1])

    def quadrant_name(self, quadrant: int) -> str:
        """Both classes, such as `source & torch`."""
        return f"{self.classes[0][quadrant // 2]} & {self.classes[1][quadrant % 2]}"

    def digest(self) -> str:
        """SHA-256 of texts, labels and documents."""
        return _digest(self.texts, self.labels, self.groups)


def _check(name: str, texts: tuple[str, ...], labels: Rows, groups: tuple[str, ...]) -> None:
    if not len(texts) == len(labels) == len(groups):
        raise ValueError(
            f"task {name}: {len(texts)} texts, {len(labels)} labels, {len(groups)} documents; expected as many of each"
        )


def _digest(texts: Iterable[str], labels: Rows, groups: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps([list(texts), labels.tolist(), list(groups)]).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of texts on either side."""

    train: Rows
    test: Rows


@dataclass(frozen=True, eq=False)
class Problem:
    """Two classes, as many texts of each, on both sides of a split: indices of texts, and whether each is positive."""

    train: Rows
    is_train: NDArray[np.bool_]
    test: Rows
    is_test: NDArray[np.bool_]


def split_by_document(
    name: str, strata: Rows, strata_names: tuple[str, ...], groups: Iterable[str], seed: int
) -> Split:
    """Whole documents on either side, about `TEST_SHARE` of every stratum's texts in test.

    A document belongs to the stratum most of its texts have.

    Raises:
        ValueError: fewer than two strata, or one with too few texts or documents.
    """
    present = np.unique(strata)
    if len(present) < 2:
        only = strata_names[int(present[0])] if len(present) else "none"
        raise ValueError(f"task {name}: the labels are of one class only ({only}); expected at least 2 classes")
    generator = numpy_generator(seed, "split", name)
    _, group = np.unique(np.array(list(groups)), return_inverse=True)
    counts = np.zeros((group.max() + 1, len(strata_names)), np.int64)
    np.add.at(counts, (group, strata), 1)
    stratum, size = counts.argmax(1), counts.sum(1)
    in_test = np.zeros(len(counts), bool)
    for one in present:
        mine = generator.permutation(np.flatnonzero(stratum == one))
        wanted, taken = TEST_SHARE * size[mine].sum(), 0
        for at, document in enumerate(mine):
            if at == len(mine) - 1:
                break  # at least one is left to train on
            if at == 0 or taken + size[document] / 2 <= wanted:
                in_test[document] = True
                taken += size[document]
    train, test = np.flatnonzero(~in_test[group]), np.flatnonzero(in_test[group])
    for one in present:
        there = [int((strata[part] == one).sum()) for part in (train, test)]
        if min(there) < LEAST:
            raise ValueError(
                f"task {name}: class {strata_names[one]!r} has {there[0]} training and {there[1]} test texts of "
                f"{int((stratum == one).sum())} documents; expected at least {LEAST} of each: leave the class out or "
                "give more texts"
            )
    return Split(train, test)


def one_vs_rest(task: Task, split: Split, positive: int, train: int, test: int, seed: int) -> Problem:
    """A class against an equal mix of the others, at most `train` and `test` texts, half of them positive."""
    generator = numpy_generator(seed, "one-vs-rest", task.name, positive)
    drawn = []
    for rows, most in ((split.train, train), (split.test, test)):
        labels = task.labels[rows]
        others = [rows[labels == one] for one in np.unique(labels) if one != positive]
        mine = rows[labels == positive]
        wanted = min(len(mine), most // 2, sum(map(len, others)))
        share = math.ceil(wanted / len(others))
        mixed = np.concatenate([generator.permutation(one)[:share] for one in others])
        wanted = min(wanted, len(mixed))  # where another class has less than its share
        chosen = (generator.permutation(mine)[:wanted], generator.permutation(mixed)[:wanted])
        drawn += [np.concatenate(chosen), np.repeat([True, False], wanted)]
    return Problem(*drawn)


def problems_of(task: Task, seed: int, train: int, test: int) -> dict[str, Problem]:
    """One problem for each class; only one of the two, which mirror each other, where there are two classes.

    Raises:
        ValueError: a class has too few texts, or there is one class only.
    """
    split = split_by_document(task.name, task.labels, task.classes, task.groups, seed)
    present = np.unique(task.labels)
    wanted = present[1:] if len(present) == 2 else present
    return {task.classes[one]: one_vs_rest(task, split, int(one), train, test, seed) for one in wanted}


def crossed_problems(task: CrossedTask, seed: int, train: int, test: int) -> tuple[Problem, Problem, Problem]:
    """First attribute, second attribute, and both at once (1,1 against 0,0), from as many texts of each quadrant.

    Raises:
        ValueError: a quadrant has too few texts.
    """
    quadrants = task.quadrants
    names = tuple(task.quadrant_name(one) for one in range(4))
    if len(np.unique(quadrants)) < 4:
        absent = names[int(np.setdiff1d(np.arange(4), quadrants)[0])]
        raise ValueError(f"task {task.name}: no text is {absent}; expected texts of all four combinations")
    split = split_by_document(task.name, quadrants, names, task.groups, seed)
    generator = numpy_generator(seed, "quadrants", task.name)
    shuffled = [
        [generator.permutation(rows[quadrants[rows] == one]) for one in range(4)] for rows in (split.train, split.test)
    ]
    each = [min(most // 4, *map(len, side)) for most, side in zip((train, test), shuffled, strict=True)]
    balanced = [np.concatenate([rows[:count] for rows in side]) for count, side in zip(each, shuffled, strict=True)]
    # Both at once has half the quadrants, and takes twice as many of each where there are, to be as large.
    ends = [
        np.concatenate([side[one][: 2 * count] for one in (0, 3)]) for count, side in zip(each, shuffled, strict=True)
    ]

    def problem(rows: list[Rows], is_positive: NDArray[np.bool_]) -> Problem:
        return Problem(rows[0], is_positive[rows[0]], rows[1], is_positive[rows[1]])

    first, second = task.labels[:, 0] == 1, task.labels[:, 1] == 1
    return problem(balanced, first), problem(balanced, second), problem(ends, first & second)


def limited(task: Task | CrossedTask, limit: int) -> Task | CrossedTask:
    """At most `limit` texts of each class or quadrant, the first ones; all of them when it is 0."""
    if not limit:
        return task
    crossed = isinstance(task, CrossedTask)
    strata = task.quadrants if crossed else task.labels
    kept = np.sort(np.concatenate([np.flatnonzero(strata == one)[:limit] for one in np.unique(strata)]))
    texts, groups = (tuple(np.array(values, object)[kept]) for values in (task.texts, task.groups))
    if isinstance(task, CrossedTask):
        return CrossedTask(task.name, texts, task.labels[kept], task.classes, groups, task.source)
    return Task(task.name, texts, task.labels[kept], task.classes, groups, task.source)
