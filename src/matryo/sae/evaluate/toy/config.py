"""What a toy experiment is made of. Imports no torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """One world for each seed, a vanilla and a Matryoshka autoencoder in each."""

    world: Literal["paper", "generated", "families"] = "paper"
    "paper (3 parents of 3 children, 8 leaves), generated (a random tree) or families (24 parents of 12 children)."
    toy_seeds: int = 5
    "Worlds, each with its own directions, batches and initial weights."
    toy_steps: int | None = None
    "Training steps; 5,000 (paper) or 2,000 when not given."
    features: int = 256
    "generated: least number of features."
    width: int = 192
    "generated: width of the activations; with fewer dimensions than features directions overlap."
    toy_l0: float = 6.0
    "generated: mean active features per token."
    samples: int = 20_000
    "Fresh samples on which recovery is measured."

    def __post_init__(self) -> None:
        """Check the values."""
        for name, least in (("toy_seeds", 1), ("features", 10), ("width", 2), ("samples", 100)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a whole number of {least} or more")
        if self.toy_steps is not None and self.toy_steps < 1:
            raise ValueError(f"toy_steps is {self.toy_steps}; expected a whole number of 1 or more")
        if not self.toy_l0 >= 1:
            raise ValueError(f"toy_l0 is {self.toy_l0}; expected a number of 1 or more")

    @property
    def steps(self) -> int:
        """Training steps; the paper trains 40,000, and its figure is there after 5,000 (docs/log.md)."""
        return self.toy_steps or (5_000 if self.world == "paper" else 2_000)
