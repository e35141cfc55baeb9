"""One stream of random numbers for each member of an ensemble, all drawn at once, each the same as when alone."""

from collections.abc import Sequence

import numpy as np

from matryo.spine.seeding import seed_for

_STEP, _MIX_1, _MIX_2 = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class Streams:
    """SplitMix64 by counter: word i of member m is mix(key_m + (i + 1)·φ), φ = 2⁶⁴ / golden ratio.

    A stream is its key and how many words were taken from it, so that it does not depend on how many others are drawn
    beside it, and can be saved and restored as two integers. Reference: Steele, Lea, Flood, "Fast splittable
    pseudorandom number generators", OOPSLA 2014.
    """

    def __init__(self, keys: Sequence[int] | np.ndarray) -> None:
        self.keys = np.asarray(keys, dtype=np.uint64)
        self.counters = np.zeros(len(self.keys), dtype=np.uint64)

    @classmethod
    def named(cls, seeds: Sequence[int], *names: str | int) -> "Streams":
        """Make a stream for each seed; streams of other names are independent of these."""
        return cls([seed_for(seed, *names) for seed in seeds])

    def uniform(self, n: int) -> np.ndarray:
        """Draw the next `n` numbers in [0, 1) of every member: (members, n) float64."""
        at = self.counters[:, None] + np.arange(1, n + 1, dtype=np.uint64)
        word = self.keys[:, None] + at * _STEP
        word = (word ^ (word >> np.uint64(30))) * _MIX_1
        word = (word ^ (word >> np.uint64(27))) * _MIX_2
        word ^= word >> np.uint64(31)
        self.counters = self.counters + np.uint64(n)
        return (word >> np.uint64(11)) * 2.0**-53
