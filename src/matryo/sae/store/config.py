"""How activations are stored. Imports no torch, so that command lines stay quick."""

from dataclasses import dataclass
from typing import Literal, get_args

from matryo.spine.errors import unknown

StoreDtype = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """The layout of a store."""

    dtype: StoreDtype = "float16"
    "Number format on disk: float16, bfloat16 or float32."
    shard_rows: int = 65_536
    "Activations per shard file."
    calibration_tokens: int = 16_384
    "Training tokens set aside for inference thresholds where the text has no part for it; at most a tenth of them."
    skip_first: bool = True
    "Leave out position 0 of every row (the BOS token, whose activation is like no other)."
    outlier_ratio: float = 10.0
    "Leave activations of more than this many times the median norm (attention sinks) out of training; 0 keeps them."
    seed: int = 0
    "Seed of the shuffle."

    def __post_init__(self) -> None:
        """Check every value."""
        if self.dtype not in get_args(StoreDtype):
            raise unknown("dtype", self.dtype, get_args(StoreDtype))
        if self.shard_rows < 1:
            raise ValueError(f"shard_rows is {self.shard_rows}; expected a whole number of 1 or more")
        if self.calibration_tokens < 1:
            raise ValueError(f"calibration_tokens is {self.calibration_tokens}; expected 1 or more")
        if self.outlier_ratio != 0 and not self.outlier_ratio > 1:
            raise ValueError(
                f"outlier_ratio is {self.outlier_ratio}; expected 0 (keep all) or a ratio above 1, such as 10"
            )
