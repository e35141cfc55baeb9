"""Rows of activations to read: a store's shards, or an array of any origin."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from matryo.sae.store.layout import (
    BLOCK_ROWS,
    DTYPES,
    SPLITS,
    ShardFiles,
    all_finite,
    block_bytes,
    manifest_digest,
    slots_of,
)
from matryo.sae.store.writer import FORMAT, MANIFEST, MEASURED_ROWS
from matryo.spine.errors import unknown


class Activations(Protocol):
    """What the readers of activations rely on."""

    d_in: int
    scale: float
    shuffled: bool
    "Whether consecutive rows are already in random order."

    def rows(self, split: str) -> np.ndarray:
        """The numbers of a split's rows, outliers left out."""
        ...

    def gather(self, split: str, index: np.ndarray) -> Tensor:
        """Those rows, as they are stored."""
        ...

    def identity(self) -> dict[str, Any]:
        """What the rows are of, with hashes."""
        ...


class ActivationStore:
    """A finished store. The hash of every block of 4,096 rows is checked when one of them is first read."""

    shuffled = True

    def __init__(self, folder: Path) -> None:
        """Open a folder written by `StoreWriter`.

        Raises:
            OSError: there is no finished store, or a shard is missing.
            ValueError: the manifest is of another format or damaged, or a shard has another size than it says.
        """
        self.folder = folder
        self.manifest: dict[str, Any] = _read_manifest(folder / MANIFEST)
        self.d_in: int = self.manifest["d_in"]
        self.scale: float = self.manifest["scale"]
        self.files = {
            split: ShardFiles(folder, split, rows, self.d_in, self.manifest["dtype"], self.manifest["shard_rows"])
            for split, rows in self.manifest["rows"].items()
        }
        self._open: dict[tuple[str, int], tuple[Tensor, np.ndarray]] = {}
        for split, files in self.files.items():
            for shard in range(files.count):
                _check_size(files.path(shard), files.bytes_in(shard), split)

    @cached_property
    def _kept(self) -> dict[str, np.ndarray]:
        kept = {}
        for split, files in self.files.items():
            keep = np.ones(files.rows, dtype=bool)
            keep[self.manifest["outliers"][split]] = False
            kept[split] = np.flatnonzero(keep)
        return kept

    def rows(self, split: str) -> np.ndarray:
        """The slots of a split, outliers left out."""
        _check_split(split)
        return self._kept[split]

    def gather(self, split: str, index: np.ndarray) -> Tensor:
        """The activations of slots, in the order asked for.

        Raises:
            ValueError: a shard was altered, or holds a NaN or infinite value (shard and row are named).
        """
        files = self.files[split]
        out = torch.empty(len(index), self.d_in, dtype=DTYPES[files.dtype])
        shard = index // files.shard_rows
        for number in np.unique(shard).tolist():
            mine = np.flatnonzero(shard == number)
            local = index[mine] - number * files.shard_rows
            rows = self._checked(split, number, local).index_select(0, torch.from_numpy(local))
            if not all_finite(rows):
                bad = int(local[(~torch.isfinite(rows)).any(1).numpy()][0])
                raise ValueError(
                    f"row {bad} of {files.path(number)} is NaN or infinite; expected finite numbers: harvest again"
                )
            if mine[-1] - mine[0] < len(mine):
                out[mine[0] : mine[-1] + 1] = rows
            else:
                out.index_copy_(0, torch.from_numpy(mine), rows)
        return out

    def in_token_order(self, chunk: int = 8_192) -> Iterator[tuple[int, Tensor]]:
        """All activations of the training text, outliers too, in token order: (number of the first token, rows).

        Tokens are numbered over positions 1, 2, … of all rows; those of position 0, where a store has them, are left
        out.
        """
        train, about = self.files["train"].rows, self.manifest["about"]
        slots = slots_of(self.manifest["tokens"]["train"], self.manifest["seed"], "train").astype(np.int64)
        if about.get("skip_first") is False:
            slots = slots.reshape(-1, about["row_length"])[:, 1:].ravel()
        for first in range(0, len(slots), chunk):
            here = slots[first : first + chunk]
            trained = here < train
            rows = torch.empty(len(here), self.d_in)
            rows[torch.from_numpy(trained)] = self.gather("train", here[trained]).float()
            rows[torch.from_numpy(~trained)] = self.gather("calibration", here[~trained] - train).float()
            yield first, rows

    def identity(self) -> dict[str, Any]:
        """What the activations are of."""
        return self.manifest["about"]

    def _checked(self, split: str, number: int, local: np.ndarray) -> Tensor:
        """A shard, once the blocks that some of its rows lie in are known to be what was written."""
        if (split, number) not in self._open:
            rows = self.files[split].open(number)
            self._open[split, number] = rows, np.zeros(-(-len(rows) // BLOCK_ROWS), dtype=bool)
        rows, seen = self._open[split, number]
        blocks = local // BLOCK_ROWS
        for block in np.unique(blocks[~seen[blocks]]).tolist():
            found = hashlib.sha256(block_bytes(rows[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS])).hexdigest()
            if found != self.manifest["shards"][split][number]["blocks"][block]:
                path = self.files[split].path(number)
                raise ValueError(f"shard {path} was altered since it was written; expected its hash: harvest again")
            seen[block] = True
        return rows


class ArrayActivations:
    """A tensor (rows, d_in), split at random into train, calibration and held-out rows."""

    shuffled = False

    def __init__(self, array: Tensor, name: str = "tensor", heldout: float = 0.05, seed: int = 0) -> None:
        """Wrap a tensor, which may be a memory map.

        Args:
            array: the activations, floating point.
            name: what errors call it.
            heldout: share of the rows in the held-out split, and again in the calibration split.
            seed: of the split.

        Raises:
            ValueError: it has another shape, too few rows, no floating point, or a NaN or infinite value.
        """
        if array.dim() != 2 or not array.is_floating_point():
            raise ValueError(f"{name} is {array.dtype} of shape {tuple(array.shape)}; expected floating (rows, d_in)")
        if len(array) < 3:
            raise ValueError(
                f"{name} has {len(array)} rows; expected at least 3, for training, calibration and held-out"
            )
        self.array, self.name, self.d_in = array, name, array.shape[1]
        order = slots_of(len(array), seed, "split").astype(np.int64)
        part = max(1, int(heldout * len(array)))
        cuts = np.split(order, [part, 2 * part])
        self._split: dict[str, np.ndarray] = dict(
            zip(("heldout", "calibration", "train"), map(np.sort, cuts), strict=True)
        )
        self.scale = self._measure()

    def _measure(self) -> float:
        total = 0.0
        for start in range(0, len(self.array), MEASURED_ROWS):
            norms = self.array[start : start + MEASURED_ROWS].double().square().sum(1)
            if not bool(torch.isfinite(norms).all()):
                bad = start + int((~torch.isfinite(norms)).nonzero()[0])
                raise ValueError(f"row {bad} of {self.name} is NaN or infinite; expected finite numbers: drop the row")
            total += float(norms.sum())
        if not total > 0:
            raise ValueError(f"all rows of {self.name} are 0; expected activations")
        return math.sqrt(self.d_in * len(self.array) / total)

    def rows(self, split: str) -> np.ndarray:
        """The rows of a split, ascending."""
        _check_split(split)
        return self._split[split]

    def gather(self, split: str, index: np.ndarray) -> Tensor:
        """Those rows of the array."""
        return self.array.index_select(0, torch.from_numpy(index))  # ten times faster than array[index]

    def identity(self) -> dict[str, Any]:
        """Its name and shape."""
        return {"array": self.name, "shape": list(self.array.shape), "dtype": str(self.array.dtype)}


def open_activations(source: Tensor | str | Path) -> ActivationStore | ArrayActivations:
    """A tensor, a `.npy` or `.safetensors` file (`FILE#NAME` for one of several tensors), or a store's folder.

    Raises:
        ValueError: it is none of these (pickles are refused), or is damaged.
        OSError: it does not exist.
    """
    if isinstance(source, Tensor):
        return ArrayActivations(source)
    path, key = _file_and_key(str(source))
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a store, a .npy or a .safetensors file")
    if key and path.suffix != ".safetensors":
        raise ValueError(f"{source} names the tensor {key!r}; expected a .safetensors file before #: leave #{key} out")
    if path.is_dir():
        return ActivationStore(path)
    if path.suffix == ".npy":
        return ArrayActivations(_from_npy(path), str(path))
    if path.suffix == ".safetensors":
        return ArrayActivations(_from_safetensors(path, key), str(source))
    raise ValueError(f"{path} is neither a store nor a .npy or .safetensors file; expected one of these (no pickles)")


def _file_and_key(source: str) -> tuple[Path, str]:
    """The parts of FILE#NAME; a # in the name of a file or folder that exists belongs to it."""
    text, _, key = source.rpartition("#")
    return (Path(text), key) if text and not Path(source).exists() else (Path(source), "")


def _from_npy(path: Path) -> Tensor:
    try:
        # Copy-on-write, as PyTorch wants writable memory; object arrays are pickles and refused by NumPy.
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected a .npy file of numbers, no pickle") from None
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float16, np.float32, np.float64):
        held = array.dtype if isinstance(array, np.ndarray) else "several arrays"
        raise ValueError(f"{path} holds {held}; expected one array of float16, float32 or float64")
    return torch.from_numpy(array)


def _from_safetensors(path: Path, key: str) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}); expected a complete .safetensors file") from None
    if not key and len(tensors) == 1:
        return next(iter(tensors.values()))
    if key not in tensors:
        raise unknown(f"tensor in {path}", key, tensors, fix=f"name one as {path.name}#NAME")
    return tensors[key]


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no {MANIFEST}; expected a finished store: resume its harvest")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found, intact = manifest["format"], manifest.get("digest") == manifest_digest(manifest)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged; expected a store's manifest: harvest again") from None
    if found != FORMAT:
        raise ValueError(f"{path} has format {found!r}; expected {FORMAT}: harvest again")
    if not intact:
        raise ValueError(f"{path} was altered since it was written; expected its own digest: harvest again")
    return manifest


def _check_size(path: Path, expected: int, split: str) -> None:
    size = path.stat().st_size if path.exists() else -1
    if size < 0:
        raise FileNotFoundError(
            f"shard {path} of the {split} split is missing; expected {expected:,} bytes: harvest again"
        )
    if size != expected:
        raise ValueError(f"shard {path} has {size:,} bytes; expected {expected:,}: it was cut short, harvest again")


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
