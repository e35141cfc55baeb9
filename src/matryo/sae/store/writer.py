"""Activations → shuffled shards and a manifest."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matryo.sae.store.config import StoreConfig
from matryo.sae.store.layout import (
    BLOCK_ROWS,
    DTYPES,
    ShardFiles,
    ShardHashes,
    all_finite,
    manifest_digest,
    slots_of,
)
from matryo.spine.config import diff, to_dict, write_text
from matryo.spine.errors import check_space

MANIFEST, JOURNAL, JOURNALS = "store.json", "journal.json", "journal*.json"
FORMAT = 2
JOURNAL_SECONDS = 5.0
MEASURED_ROWS = 512
"""Rows measured at a time: few enough to stay in the cache."""


class StoreWriter:
    """Writes one site's activations of one split's tokens after another, in any chunks, in token order.

    Killed at any moment it can be made anew over the same folder: `done(split)` says how many tokens are safely
    written, and writing a token again changes nothing. The manifest is written last, by `finish`.
    """

    def __init__(
        self,
        folder: Path,
        tokens: Mapping[str, int],
        d_in: int,
        config: StoreConfig,
        begin: Mapping[str, int] | None = None,
        journal: str = JOURNAL,
    ) -> None:
        """Reserve the space.

        Args:
            folder: the store's folder, made when missing.
            tokens: number of activations of the splits "train", "heldout" and "calibration"; without the last, some
                training tokens are set aside for it.
            d_in: width of an activation.
            config: the layout.
            begin: where one of several writers of this store begins in each split; 0 when not given.
            journal: name of this writer's journal, another for each of several.

        Raises:
            OSError: the disk has not the room; said before anything is written.
            ValueError: the folder holds the beginning of a store of another layout.
        """
        self.folder, self.config, self.d_in, self.tokens = folder, config, d_in, dict(tokens)
        self._layout = {"tokens": self.tokens, "d_in": d_in, **to_dict(config)}
        self._begin, self._journal = dict(begin or dict.fromkeys(tokens, 0)), journal
        spans = self._read_journals()
        self._done = {split: _covered(first, spans.get(split, [])) for split, first in self._begin.items()}
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
        self._unsynced: set[tuple[str, int]] = set()
        self._stored: Tensor | None = None
        self._journal_at = time.monotonic() + JOURNAL_SECONDS

    def done(self, split: str) -> int:
        """Tokens of a split that are safely written."""
        return self._done[split]

    def write(self, split: str, first: int, values: Tensor) -> None:
        """Write the activations of tokens first, first + 1, … of a split.

        Raises:
            ValueError: a value is NaN or infinite, or does not fit the store's number format; or tokens before `first`
                were never written, or there are more than the store was made for.
        """
        if not self._begin[split] <= first <= self.done(split) or first + len(values) > self.tokens[split]:
            raise ValueError(
                f"tokens {first} to {first + len(values)} of the {split} split were given; expected the next to start "
                f"at {self.done(split)} or before and to end by {self.tokens[split]}: write them in order"
            )
        stored = self._converted(values)
        if not all_finite(stored):
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
            inside = np.flatnonzero((slots >= start) & (slots < start + files.rows))
            self._scatter(part, slots[inside] - start, stored.index_select(0, torch.from_numpy(inside)))
            start += files.rows
        self._done[split] = first + len(values)
        if time.monotonic() >= self._journal_at:
            self.commit()

    def commit(self) -> None:
        """Push what was written to disk, then say so in the journal.

        `write` does so every five seconds, or less often where it takes longer than one: a sixth of the time at most.
        """
        began = time.monotonic()
        for split, shard in sorted(self._unsynced):
            self.files[split].sync(shard)
        self._unsynced.clear()
        begun = {"begin": self._begin} if any(self._begin.values()) else {}
        _write_json(self.folder / self._journal, {"layout": self._layout, "done": self._done, **begun})
        now = time.monotonic()
        self._journal_at = now + JOURNAL_SECONDS * max(1.0, now - began)

    def finish(self, about: Mapping[str, Any]) -> None:
        """Hash the shards, measure mean, scale and outliers, and write the manifest; the last of several writers does.

        Args:
            about: what the activations are of (model, site, tokenizer, texts); kept in the manifest.

        Raises:
            ValueError: tokens are missing, or all activations are 0.
        """
        self.commit()
        spans = self._read_journals()
        for split, count in self.tokens.items():
            if (written := _covered(0, spans.get(split, []))) < count:
                raise ValueError(
                    f"{written:,} tokens of the {split} split were written; expected {count:,}: write the rest"
                )
        self._begin, self._done, self._journal = dict.fromkeys(self.tokens, 0), dict(self.tokens), JOURNAL
        self.commit()
        for path in self.folder.glob(JOURNALS):
            if path.name != JOURNAL:
                path.unlink()
        shards, measured = _measure(self.files, self.config)
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

    def _converted(self, values: Tensor) -> Tensor:
        """The values in the store's format, in memory that is used again for the next ones."""
        if self._stored is None or len(self._stored) < len(values):
            self._stored = torch.empty(len(values), self.d_in, dtype=DTYPES[self.config.dtype])
        return self._stored[: len(values)].copy_(values)

    def _scatter(self, split: str, local: np.ndarray, values: Tensor) -> None:
        """Write rows to slots of a split; shard by shard, each from front to back."""
        files = self.files[split]
        order = np.argsort(local)
        local, values = local[order], values.index_select(0, torch.from_numpy(order))
        shard = local // files.shard_rows
        ends = np.flatnonzero(np.diff(shard, append=-1)) + 1
        start = 0
        for end in ends.tolist():
            index = int(shard[start])
            self._unsynced.add((split, index))
            files.put(index, (local[start:end] - index * files.shard_rows).tolist(), values[start:end])
            start = end

    def _read_journals(self) -> dict[str, list[tuple[int, int]]]:
        """Which tokens of each split are written, as (first, one past the last), by any writer of this store."""
        spans: dict[str, list[tuple[int, int]]] = {}
        for path in sorted(self.folder.glob(JOURNALS)):
            try:
                journal = json.loads(path.read_text(encoding="utf-8"))
                layout, begin = journal["layout"], journal.get("begin", {})
                here = {str(split): (int(begin.get(split, 0)), int(done)) for split, done in journal["done"].items()}
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # Altered: nothing is known to be written, and writing it again does no harm.
            if changes := diff(layout, self._layout):
                raise ValueError(
                    f"{self.folder} holds the beginning of another store ({'; '.join(changes)}); expected the same "
                    "layout to go on: use a new folder"
                )
            for split, span in here.items():
                spans.setdefault(split, []).append(span)
        return spans


def _covered(first: int, spans: list[tuple[int, int]]) -> int:
    """The first token from `first` on that is in no span."""
    for low, high in sorted(spans):
        if low <= first < high:
            first = high
    return first


@torch.no_grad()
def _measure(files: Mapping[str, ShardFiles], config: StoreConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every file read once: its hashes; mean and scale of the training split without its outliers; all outliers."""
    shards: dict[str, Any] = {}
    norms: dict[str, Tensor] = {}
    total = torch.zeros(files["train"].d_in, dtype=torch.float64)
    for split, f in files.items():
        shards[split], norms[split] = [], torch.empty(f.rows)
        for shard in range(f.count):
            hashes = ShardHashes()
            start = shard * f.shard_rows
            for rows in f.open(shard).split(BLOCK_ROWS):
                hashes.update(rows)
                for piece in rows.split(MEASURED_ROWS):
                    plain = piece.float()
                    torch.linalg.vector_norm(plain, dim=1, out=norms[split][start : start + len(piece)])
                    total += plain.sum(0, dtype=torch.float64) if split == "train" else 0
                    start += len(piece)
            shards[split].append({"file": f.path(shard).name, "rows": f.rows_in(shard), **hashes.found()})
    median = float(norms["train"].median())
    limit = config.outlier_ratio * median if config.outlier_ratio else math.inf
    outliers = {split: (values > limit).nonzero().view(-1) for split, values in norms.items()}
    for shard in (outliers["train"] // files["train"].shard_rows).unique().tolist():
        slots = outliers["train"] - shard * files["train"].shard_rows
        inside = slots[(slots >= 0) & (slots < files["train"].shard_rows)]
        total -= files["train"].open(shard).index_select(0, inside).double().sum(0)
    kept = norms["train"][norms["train"] <= limit].double()
    mean_square = float(kept.square().mean())
    if not mean_square > 0:
        raise ValueError(
            "all activations of the training split are 0; expected some that are not: check model and site"
        )
    return shards, {
        "mean": (total / len(kept)).tolist(),
        "scale": math.sqrt(files["train"].d_in / mean_square),
        "median_norm": median,
        "outliers": {split: slots.tolist() for split, slots in outliers.items()},
    }


def _write_json(path: Path, value: Any) -> None:
    try:
        write_text(path, json.dumps(value, indent=1))
    except OSError as error:
        raise OSError(
            error.errno, f"{path} could not be written ({error.strerror}); expected room for it: free some, then resume"
        ) from None
