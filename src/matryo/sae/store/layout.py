"""Where every activation lies in a store, decided before the first is computed.

A token's slot is π(token), π a seeded permutation of all tokens of a split: the store is shuffled as a whole, and
writing a token twice writes the same bytes to the same place. That is what makes an interrupted harvest safe to repeat.
"""

from __future__ import annotations

import errno
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
BLOCK_ROWS = 4_096
"""Rows that are hashed together: what is read for the first time is checked block by block, not shard by shard."""


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

    def open(self, shard: int) -> Tensor:
        """A shard as a (rows, d_in) tensor over its memory map."""
        raw = np.uint16 if DTYPES[self.dtype].itemsize == 2 else np.float32
        # "c": PyTorch wants writable memory; nothing reaches the file.
        array = np.memmap(self.path(shard), dtype=raw, mode="c", shape=(self.rows_in(shard), self.d_in))
        return torch.from_numpy(array).view(DTYPES[self.dtype])

    def put(self, shard: int, slots: list[int], rows: Tensor) -> None:
        """Write rows, contiguous and in the format of the file, to those of its slots.

        Row by row: through a memory map every first touch of a page would cost a fault, nine times the processor time
        when slots are random. The file is opened anew, so that no number of shards meets the limit of open files.

        Raises:
            OSError: the disk is full or failing.
        """
        size = rows.shape[1] * rows.element_size()
        data = block_bytes(rows)
        file = os.open(self.path(shard), os.O_WRONLY)
        try:
            for start, slot in zip(range(0, len(data), size), slots, strict=True):
                if os.pwrite(file, data[start : start + size], slot * size) != size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OSError(
                error.errno, f"{self.path(shard)} could not be written ({error.strerror}): free some room, then resume"
            ) from None
        finally:
            os.close(file)

    def sync(self, shard: int) -> None:
        """Wait until all that was written to a shard is on the disk."""
        file = os.open(self.path(shard), os.O_RDWR)
        try:
            os.fsync(file)
        finally:
            os.close(file)


class ShardHashes:
    """SHA-256 of a shard's file and of each of its blocks, from the blocks in order."""

    def __init__(self) -> None:
        self._file, self._blocks = hashlib.sha256(), []

    def update(self, block: Tensor) -> None:
        """Take the next block of rows."""
        data = block_bytes(block)
        self._file.update(data)
        self._blocks.append(hashlib.sha256(data).hexdigest())

    def found(self) -> dict[str, Any]:
        """The hashes under the names they have in the manifest."""
        return {"sha256": self._file.hexdigest(), "blocks": self._blocks}


def block_bytes(rows: Tensor) -> memoryview:
    """The bytes of contiguous rows, as they are in the file."""
    return rows.view(torch.uint8).numpy().data.cast("B")


def all_finite(x: Tensor) -> bool:
    """Whether no value is NaN or infinite: the least and the greatest tell, in one pass without copies."""
    low, high = torch.aminmax(x) if x.numel() else (x.new_zeros(()),) * 2
    return bool(torch.isfinite(low) & torch.isfinite(high))


def slots_of(tokens: int, seed: int, split: str) -> np.ndarray:
    """Slot π(token) of every token of a split, as a permutation of 0 … tokens − 1 (4 bytes per token)."""
    kind = np.uint32 if tokens < 2**32 else np.uint64
    slots = np.arange(tokens, dtype=kind)
    numpy_generator(seed, "store", split).shuffle(slots)  # what permutation() gives, without its copy
    return slots


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over everything else in a manifest, by which an altered one is known."""
    rest = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
