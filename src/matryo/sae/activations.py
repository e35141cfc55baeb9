"""Token rows × language model → activations, to be stored or streamed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matryo.sae.lm import LM, capture
from matryo.sae.text import TokenRows
from matryo.spine.seeding import torch_generator

CHUNK_TOKENS = 8_192
"""Tokens whose activations are held at a time."""

CALIBRATION_TOKENS = 262_144
"""Tokens on which thresholds are set at most, 800 MB at a width of 768. Of some 1,900 documents, they leave L0 a
standard error of 0.3 % (docs/sae/text.md); more would cost memory and gain nothing visible."""


def site_width(lm: LM, site: str, row_length: int) -> int:
    """Width of a site's activations, found by running one row of BOS tokens."""
    tokens = torch.full((1, row_length), lm.bos_id)
    return capture(lm, tokens, [site])[site].shape[-1]


def chunks(
    lm: LM,
    rows: TokenRows,
    sites: Sequence[str],
    first_row: int = 0,
    skip_first: bool = True,
    stop_row: int | None = None,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Activations of all tokens in order: (number of the first token, {site: (tokens, d)}), some rows at a time.

    Tokens are numbered row by row, position 0 not counted when `skip_first`.

    Raises:
        ValueError: an activation is NaN or infinite; site, row and position are named.
    """
    drop = int(skip_first)
    length = rows.tokens.shape[1] - drop
    per_chunk = _rows_in_chunk(rows.tokens.shape[1])
    stop_row = len(rows.tokens) if stop_row is None else stop_row
    for start in range(first_row, stop_row, per_chunk):
        tokens = torch.from_numpy(rows.tokens[start : min(start + per_chunk, stop_row)]).long()
        found = capture(lm, tokens, sites)
        flat = {}
        for site, values in found.items():
            values = values[:, drop:].flatten(0, 1)
            if not math.isfinite(float(values.sum(dtype=torch.float32))) and len(
                bad := (~torch.isfinite(values)).any(1).nonzero()
            ):
                row, position = divmod(int(bad[0]), length)
                raise ValueError(
                    f"{site} of row {start + row}, position {position + drop} is NaN or infinite in {lm.name}; "
                    "expected finite numbers: load the model in float32 or bfloat16"
                )
            flat[site] = values
        yield start * length, flat


def share_of_rows(rows: TokenRows, rank: int, size: int) -> tuple[int, int]:
    """First and one past the last of the rows that one of several processes runs, in the chunks that one would make.

    A row's activations can depend on the rows they are computed with, in their last bits.
    """
    per_chunk = _rows_in_chunk(rows.tokens.shape[1])
    count = -(-len(rows.tokens) // per_chunk)
    first, stop = count * rank // size, count * (rank + 1) // size
    return first * per_chunk, min(stop * per_chunk, len(rows.tokens))


def _rows_in_chunk(row_length: int) -> int:
    return max(1, CHUNK_TOKENS // row_length)


def capture_batches(lm: LM, rows: TokenRows, site: str, batch_size: int) -> list[Tensor]:
    """The activations of rows in batches, position 0 and outliers left out, as in training.

    They are held in memory: of more than CALIBRATION_TOKENS so many are read, in rows evenly spread.
    """
    most = max(1, CALIBRATION_TOKENS // rows.tokens.shape[1])
    if len(rows.tokens) > most:
        chosen = np.linspace(0, len(rows.tokens) - 1, most).round().astype(int)
        rows = replace(rows, tokens=rows.tokens[chosen], document=rows.document[chosen])
    acts = torch.cat([found[site].float() for _, found in chunks(lm, rows, [site])])
    return list(without_outliers(acts).split(batch_size))


def without_outliers(acts: Tensor, ratio: float = 10.0) -> Tensor:
    """Rows of at most `ratio` times the median norm; all of them when ratio is 0."""
    if not ratio:
        return acts
    norms = acts.norm(dim=1)
    return acts[norms <= ratio * norms.median()]


class _Buffer:
    """Rows in memory that is reserved once. What is shuffled is the order of their places; no row is moved."""

    def __init__(self, capacity: int, like: Tensor) -> None:
        self.rows = like.new_empty(capacity, like.shape[1], dtype=torch.float32)
        self.norms = torch.empty(capacity)
        self.held = torch.empty(0, dtype=torch.long)
        """Places of the rows that are held, in the order in which they will be given."""
        self._free = torch.arange(capacity)

    def add(self, rows: Tensor) -> None:
        """Put rows behind those held, in float32."""
        places, self._free = self._free[: len(rows)], self._free[len(rows) :]
        rows = rows.float()
        self.rows.index_copy_(0, places.to(rows.device), rows)
        self.norms[places] = rows.norm(dim=1).cpu()
        self.held = torch.cat([self.held, places])

    def mix(self, outlier_ratio: float, generator: torch.Generator) -> None:
        """Drop outliers, and shuffle."""
        norms = self.norms[self.held]
        if outlier_ratio:
            within = norms <= outlier_ratio * norms.median()
            self._free = torch.cat([self._free, self.held[~within]])
            self.held = self.held[within]
        self.held = self.held[torch.randperm(len(self.held), generator=generator)]

    def give(self, count: int) -> Tensor:
        """The next rows, as a tensor of their own; their places are free again."""
        places, self.held = self.held[:count], self.held[count:]
        self._free = torch.cat([self._free, places])
        return self.rows.index_select(0, places.to(self.rows.device))


class ActivationStream:
    """Shuffled batches straight from the model, through a bounded buffer, without a store.

    The buffer is filled, shuffled, and emptied by half; then filled again. Activations of more than `outlier_ratio`
    times the buffer's median norm are left out. Iterating again starts over with another shuffle. A resumed training
    run replays the stream by skipping.
    """

    def __init__(
        self,
        lm: LM,
        rows: TokenRows,
        site: str,
        batch_size: int,
        *,
        buffer_tokens: int = 65_536,
        outlier_ratio: float = 10.0,
        seed: int = 0,
    ) -> None:
        """Prepare to stream.

        Raises:
            ValueError: the buffer is smaller than two batches.
        """
        if buffer_tokens < 2 * batch_size:
            raise ValueError(f"buffer_tokens is {buffer_tokens}; expected at least two batches of {batch_size}")
        self.lm, self.rows, self.site, self.batch_size = lm, rows, site, batch_size
        self.buffer_tokens, self.outlier_ratio, self.seed = buffer_tokens, outlier_ratio, seed
        self._pass = 0

    def __iter__(self) -> Iterator[Tensor]:
        """One pass over the rows."""
        generator = torch_generator(self.seed, "stream", self._pass)
        self._pass += 1
        buffer: _Buffer | None = None
        for _, found in chunks(self.lm, self.rows, [self.site]):
            rows = found[self.site]
            if buffer is None:
                # A chunk, none longer than the first, may come on top of a buffer that lacks one row.
                buffer = _Buffer(self.buffer_tokens + len(rows), rows)
            buffer.add(rows)
            if len(buffer.held) >= self.buffer_tokens:
                buffer.mix(self.outlier_ratio, generator)
                for _ in range(max(1, len(buffer.held) // 2 // self.batch_size)):
                    yield buffer.give(self.batch_size)
        if buffer is not None:
            buffer.mix(self.outlier_ratio, generator)
            while len(buffer.held) >= self.batch_size:
                yield buffer.give(self.batch_size)

    def identity(self) -> dict[str, Any]:
        """What the activations are of."""
        return {"lm": self.lm.identity(), "site": self.site, "text": self.rows.digest()}
