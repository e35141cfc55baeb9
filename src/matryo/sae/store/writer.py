"""Activations → shuffled shards and a manifest."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matryo.sae.store.config import StoreConfig
from matryo.sae.store.layout import DTYPES, ShardFiles, manifest_digest, slots_of
from matryo.spine.config import diff, to_dict, write_text
from matryo.spine.errors import check_space
from matryo.spine.fetch import file_sha256

MANIFEST, JOURNAL = "store.json", "journal.json"
FORMAT = 1
JOURNAL_SECONDS = 5.0
MEASURED_ROWS = 8_192
"""Rows measured at a time."""


class StoreWriter:
    """Writes one site's activations of one split's tokens after another, in any chunks, in token order.

    Killed at any moment it can be made anew over the same folder: `done(split)` says how many tokens are safely
    written, and writing a token again changes nothing. The manifest is written last, by `finish`.
    """

    def __init__(self, folder: Path, tokens: Mapping[str, int], d_in: int, config: StoreConfig) -> None:
        """Reserve the space.

        Args:
            folder: the store's folder, made when missing.
            tokens: number of activations of the splits "train", "heldout" and "calibration"; without the last, some
                training tokens are set aside for it.
            d_in: width of an activation.
            config: the layout.

        Raises:
            OSError: the disk has not the room; said before anything is written.
            ValueError: the folder holds the beginning of a store of another layout.
        """
        self.folder, self.config, self.d_in, self.tokens = folder, config, d_in, dict(tokens)
        self._layout = {"tokens": self.tokens, "d_in": d_in, **to_dict(config)}
        self._done = self._read_journal()
        self._apart = "calibration" in tokens
        held_back = 0 if self._apart else min(config.calibration_tokens, tokens["train"] // 10)
        self._slots = {split: slots_of(count, config.seed, split) for split, count in tokens.items()}
        counts = {"train": tokens["train"] - held_back, "calibration": held_back, "heldout": 0}
        counts |= {split: count for split, count in tokens.items() if split != "train"}
        self.files = {
            split: ShardFiles(folder, split, rows, d_in, config.dtype, config.shard_rows)
            for split, rows in counts.items()
        }
        missing = sum(
            files.bytes_in(shard)
            for files in self.files.values()
            for shard in range(files.count)
            if not files.is_reserved(shard)
        )
        check_space(folder, missing, f"the activations of {sum(tokens.values()):,} tokens")
        for files in self.files.values():
            files.allocate()
        self._open: dict[tuple[str, int], tuple[np.memmap[Any, Any], Tensor]] = {}
        self._journal_at = time.monotonic()

    def done(self, split: str) -> int:
        """Tokens of a split that are safely written."""
        return self._done.get(split, 0)

    def write(self, split: str, first: int, values: Tensor) -> None:
        """Write the activations of tokens first, first + 1, … of a split.

        Raises:
            ValueError: a value is NaN or infinite, or does not fit the store's number format; or tokens before `first`
                were never written, or there are more than the store was made for.
        """
        if not 0 <= first <= self.done(split) or first + len(values) > self.tokens[split]:
            raise ValueError(
                f"tokens {first} to {first + len(values)} of the {split} split were given; expected the next to start "
                f"at {self.done(split)} or before and to end by {self.tokens[split]}: write them in order"
            )
        stored = values.to(DTYPES[self.config.dtype])
        if not bool(torch.isfinite(stored).all()):
            bad = int((~torch.isfinite(stored)).any(1).nonzero()[0])
            why = "too large for " + self.config.dtype if bool(torch.isfinite(values[bad]).all()) else "NaN or infinite"
            raise ValueError(
                f"token {first + bad} of the {split} split has an activation that is {why}; "
                "expected finite numbers: use another dtype (bfloat16 or float32) or check the model"
            )
        slots = self._slots[split][first : first + len(values)].astype(np.int64)
        parts = ("train", "calibration") if split == "train" and not self._apart else (split,)
        start = 0
        for part in parts:
            files = self.files[part]
            inside = (slots >= start) & (slots < start + files.rows)
            local = slots[inside] - start
            self._scatter(part, local, stored[torch.from_numpy(inside)])
            start += files.rows
        self._done[split] = first + len(values)
        if time.monotonic() - self._journal_at > JOURNAL_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Push what was written to disk, then say so in the journal."""
        for array, _ in self._open.values():
            array.flush()
        _write_json(self.folder / JOURNAL, {"layout": self._layout, "done": self._done})
        self._journal_at = time.monotonic()

    def finish(self, about: Mapping[str, Any]) -> None:
        """Hash the shards, measure mean, scale and outliers, and write the manifest.

        Args:
            about: what the activations are of (model, site, tokenizer, texts); kept in the manifest.

        Raises:
            ValueError: tokens are missing, or all activations are 0.
        """
        self.commit()
        for split, count in self.tokens.items():
            if self.done(split) < count:
                raise ValueError(
                    f"{self.done(split):,} tokens of the {split} split were written; expected {count:,}: write the rest"
                )
        shards = {
            split: [
                {"file": files.path(i).name, "rows": files.rows_in(i), "sha256": file_sha256(files.path(i))}
                for i in range(files.count)
            ]
            for split, files in self.files.items()
        }
        measured = _measure(self.files, self.config)
        manifest = {
            "format": FORMAT,
            "d_in": self.d_in,
            "dtype": self.config.dtype,
            "shard_rows": self.config.shard_rows,
            "seed": self.config.seed,
            "tokens": self.tokens,
            "rows": {split: files.rows for split, files in self.files.items()},
            "shards": shards,
            **measured,
            "about": dict(about),
        }
        _write_json(self.folder / MANIFEST, manifest | {"digest": manifest_digest(manifest)})
        self._open.clear()

    def _scatter(self, split: str, local: np.ndarray, values: Tensor) -> None:
        files = self.files[split]
        shard = local // files.shard_rows
        for index in np.unique(shard):
            mine = shard == index
            at = torch.from_numpy(local[mine] - index * files.shard_rows)
            self._shard(split, int(index))[at] = values[torch.from_numpy(mine)]

    def _shard(self, split: str, index: int) -> Tensor:
        if (split, index) not in self._open:
            array = self.files[split].map(index, write=True)
            self._open[split, index] = array, self.files[split].as_tensor(array)
        return self._open[split, index][1]

    def _read_journal(self) -> dict[str, int]:
        path = self.folder / JOURNAL
        if not path.exists():
            return {}
        try:
            journal = json.loads(path.read_text(encoding="utf-8"))
            layout, done = journal["layout"], {str(split): int(count) for split, count in journal["done"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}  # Altered: nothing is known to be written, and writing it again does no harm.
        if changes := diff(layout, self._layout):
            raise ValueError(
                f"{self.folder} holds the beginning of another store ({'; '.join(changes)}); expected the same layout "
                "to go on: use a new folder"
            )
        return done


@torch.no_grad()
def _measure(files: Mapping[str, ShardFiles], config: StoreConfig) -> dict[str, Any]:
    """Mean and scale of the training split without its outliers, and the outliers' slots in every split."""
    norms = {
        split: torch.cat([torch.zeros(0), *(rows.float().norm(dim=1) for rows in _pieces(f))])
        for split, f in files.items()
    }
    median = float(norms["train"].median())
    limit = config.outlier_ratio * median if config.outlier_ratio else math.inf
    total = torch.zeros(files["train"].d_in, dtype=torch.float64)
    start = 0
    for rows in _pieces(files["train"]):
        total += rows[norms["train"][start : start + len(rows)] <= limit].sum(0, dtype=torch.float64)
        start += len(rows)
    kept = norms["train"][norms["train"] <= limit].double()
    mean_square = float(kept.square().mean())
    if not mean_square > 0:
        raise ValueError(
            "all activations of the training split are 0; expected some that are not: check model and site"
        )
    return {
        "mean": (total / len(kept)).tolist(),
        "scale": math.sqrt(files["train"].d_in / mean_square),
        "median_norm": median,
        "outliers": {split: (values > limit).nonzero().view(-1).tolist() for split, values in norms.items()},
    }


def _pieces(files: ShardFiles) -> Iterator[Tensor]:
    """All rows in stored order, a few at a time."""
    for shard in range(files.count):
        yield from files.open(shard).split(MEASURED_ROWS)


def _write_json(path: Path, value: Any) -> None:
    try:
        write_text(path, json.dumps(value, indent=1))
    except OSError as error:
        raise OSError(
            error.errno, f"{path} could not be written ({error.strerror}); expected room for it: free some, then resume"
        ) from None
