"""How much the evaluations measure. Imports no torch, so that command lines stay quick."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DownstreamConfig:
    """The language model with the reconstruction spliced in."""

    ce_tokens: int = 4096
    "Held-out tokens run through the model for cross-entropies; 0 to leave the model out."
    ce_levels: bool = True
    "Cross-entropy with every Matryoshka prefix too: one more run of the model for each."

    def __post_init__(self) -> None:
        """Check the values."""
        if self.ce_tokens < 0:
            raise ValueError(f"ce_tokens is {self.ce_tokens}; expected 0 or more")
