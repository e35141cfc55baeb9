"""Interleaved timing beside the encoder product, and medians with their interval."""

from __future__ import annotations

import random
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import comb

import torch
from torch import Tensor


class Product:
    """The encoder product x @ W_enc alone, into memory that is already there: what no exact step can do without."""

    def __init__(self, x: Tensor, enc_rows: Tensor, out: Tensor | None = None) -> None:
        self.x, self.weights = x, enc_rows.t()
        self.out = torch.empty(len(x), len(enc_rows)) if out is None else out

    def __call__(self) -> float:
        """Seconds of one product."""
        began = time.perf_counter()
        torch.mm(self.x, self.weights, out=self.out)
        return time.perf_counter() - began


@dataclass
class Entrant:
    """One thing to be timed, with the product it is compared to and the batches it works on."""

    name: str
    run: Callable[[Tensor], object]
    product: Product
    batches: list[Tensor]
    every: int = 1
    "1: timed in every round; 2: in every second"
    seconds: list[float] = field(default_factory=list)
    products: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    visited: list[int] = field(default_factory=list)
    "the batch of every call, warm-up included"
    error: str | None = None

    @property
    def ratios(self) -> list[float]:
        """Each round's time as a multiple of the product beside it."""
        return [s / p for s, p in zip(self.seconds, self.products, strict=True)]


def interleave(entrants: Sequence[Entrant], rounds: int, warm: int) -> None:
    """Time every entrant once a round, in an order that changes, each between two products; fill in their times.

    A product's time is the mean of the one before and the one after, so that a machine whose speed drifts slows both.
    The `warm` rounds before the first are not kept. An entrant that raises keeps its error and takes no further part.
    """
    for index in range(-warm, rounds):
        began = time.perf_counter()
        order = [e for e in entrants if e.error is None and (index < 0 or index % e.every == 0)]
        random.Random(index).shuffle(order)
        last: tuple[Product, float] | None = None
        for entrant in order:
            before = last[1] if last and last[0] is entrant.product else entrant.product()
            batch = index % len(entrant.batches)
            try:
                started = time.perf_counter()
                entrant.run(entrant.batches[batch])
                seconds = time.perf_counter() - started
            except Exception as error:
                traceback.print_exc()
                entrant.error = told(error)
                last = None
                continue
            after = entrant.product()
            last = (entrant.product, after)
            entrant.visited.append(batch)
            if index >= 0:
                entrant.seconds.append(seconds)
                entrant.products.append((before + after) / 2)
                entrant.rounds.append(index)
        label = "warm-up" if index < 0 else f"round {index + 1} of {rounds}"
        print(f"  {label}: {len(order)} timed in {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)


def told(error: Exception) -> str:
    """An error's kind and the beginning of its first line."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


def against(entrant: Entrant, other: Entrant) -> list[float]:
    """How many times longer than `other` the entrant took, round by round, each measured by the product beside it."""
    theirs = dict(zip(other.rounds, other.ratios, strict=True))
    pairs = zip(entrant.rounds, entrant.ratios, strict=True)
    return [ratio / theirs[index] for index, ratio in pairs if index in theirs]


def summary(values: Sequence[float]) -> dict[str, float | int]:
    """Median and its interval (see `interval`)."""
    low, high = interval(values)
    return {"median": statistics.median(values), "low": low, "high": high, "n": len(values)}


def interval(values: Sequence[float], level: float = 0.9) -> tuple[float, float]:
    """The narrowest symmetric pair of order statistics that covers the median with probability of at least `level`.

    For n independent draws, P(x_(r) ≤ median ≤ x_(n+1−r)) = 1 − 2 Σ_{i<r} C(n, i) / 2ⁿ, whatever their distribution.
    With 15 rounds that is the 4th and the 12th; with fewer than 5 no pair reaches 90 %, and the range is given.
    """
    ordered, n = sorted(values), len(values)
    rank = 1
    while 2 * (rank + 1) <= n and 1 - 2 * sum(comb(n, i) for i in range(rank + 1)) / 2**n >= level:
        rank += 1
    return ordered[rank - 1], ordered[n - rank]
