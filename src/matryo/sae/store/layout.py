"""Where every activation lies in a store, decided before the first is computed.

A token's slot is π(token), π a seeded permutation of all tokens of a split: the store is shuffled as a whole, and
writing a token twice writes the same bytes to the same place. That is what makes an interrupted harvest safe to repeat.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matryo.spine.seeding import numpy_generator

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
SPLITS = ("train", "calibration", "heldout")


@dataclass(frozen=True)
class ShardFiles:
    """The shard files of one split: slots 0 … rows−1 of width d_in, `shard_rows` to a file."""

    folder: Path
    split: str
    rows: int
    d_in: int
    dtype: str
    shard_rows: int

    @property
    def count(self) -> int:
        """Number of files."""
        return -(-self.rows // self.shard_rows)

    def path(self, shard: int) -> Path:
        """File of a shard."""
        return self.folder / f"{self.split}-{shard:05d}.bin"

    def rows_in(self, shard: int) -> int:
        """Slots in a shard."""
        return min(self.shard_rows, self.rows - shard * self.shard_rows)

    def bytes_in(self, shard: int) -> int:
        """Size of a shard's file."""
        return self.rows_in(shard) * self.d_in * DTYPES[self.dtype].itemsize

    def is_reserved(self, shard: int) -> bool:
        """Whether a shard's file has its full size."""
        path = self.path(shard)
        return path.exists() and path.stat().st_size == self.bytes_in(shard)

    def allocate(self) -> None:
        """Reserve every file's space now: a full disk is then an error here, not a crash while writing.

        Raises:
            OSError: the disk has not the room. Files reserved so far stay, for the next try.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for shard in range(self.count):
            if not self.is_reserved(shard):
                self._reserve(self.path(shard), self.bytes_in(shard))

    def _reserve(self, path: Path, size: int) -> None:
        try:
            with path.open("ab") as file:
                if sys.platform == "linux":
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
        except OSError as error:
            raise OSError(
                error.errno, f"no space for {path} ({error.strerror}); expected {size:,} bytes: free some, then resume"
            ) from None

    def map(self, shard: int, write: bool = False) -> np.memmap[Any, Any]:
        """The memory map of a shard's file, two-byte formats as plain 16-bit words."""
        raw = np.uint16 if DTYPES[self.dtype].itemsize == 2 else np.float32
        mode = "r+" if write else "c"  # "c": PyTorch wants writable memory; nothing reaches the file.
        return np.memmap(self.path(shard), dtype=raw, mode=mode, shape=(self.rows_in(shard), self.d_in))

    def open(self, shard: int) -> Tensor:
        """A shard as a (rows, d_in) tensor over its memory map."""
        return self.as_tensor(self.map(shard))

    def as_tensor(self, array: np.memmap[Any, Any]) -> Tensor:
        """The numbers in a shard's memory map."""
        return torch.from_numpy(array).view(DTYPES[self.dtype])


def slots_of(tokens: int, seed: int, split: str) -> np.ndarray:
    """Slot π(token) of every token of a split, as a permutation of 0 … tokens − 1 (4 bytes per token)."""
    kind = np.uint32 if tokens < 2**32 else np.uint64
    return numpy_generator(seed, "store", split).permutation(np.arange(tokens, dtype=kind))


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over everything else in a manifest, by which an altered one is known."""
    rest = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
