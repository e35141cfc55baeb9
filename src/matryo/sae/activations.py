"""Token rows × language model → activations, to be stored or streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from matryo.sae.lm import LM, capture
from matryo.sae.text import TokenRows
from matryo.spine.seeding import torch_generator

CHUNK_TOKENS = 8_192
"""Tokens whose activations are held at a time."""


def site_width(lm: LM, site: str, row_length: int) -> int:
    """Width of a site's activations, found by running one row of BOS tokens."""
    tokens = torch.full((1, row_length), lm.bos_id)
    return capture(lm, tokens, [site])[site].shape[-1]


def chunks(
    lm: LM, rows: TokenRows, sites: Sequence[str], first_row: int = 0, skip_first: bool = True
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Activations of all tokens in order: (number of the first token, {site: (tokens, d)}), some rows at a time.

    Tokens are numbered row by row, position 0 not counted when `skip_first`.

    Raises:
        ValueError: an activation is NaN or infinite; site, row and position are named.
    """
    drop = int(skip_first)
    length = rows.tokens.shape[1] - drop
    per_chunk = max(1, CHUNK_TOKENS // rows.tokens.shape[1])
    for start in range(first_row, len(rows.tokens), per_chunk):
        tokens = torch.from_numpy(rows.tokens[start : start + per_chunk]).long()
        found = capture(lm, tokens, sites)
        flat = {}
        for site, values in found.items():
            values = values[:, drop:]
            finite = torch.isfinite(values).all(-1)
            if not bool(finite.all()):
                row, position = (~finite).nonzero()[0].tolist()
                raise ValueError(
                    f"{site} of row {start + row}, position {position + drop} is NaN or infinite in {lm.name}; "
                    "expected finite numbers: load the model in float32 or bfloat16"
                )
            flat[site] = values.reshape(-1, values.shape[-1])
        yield start * length, flat


def capture_batches(lm: LM, rows: TokenRows, site: str, batch_size: int) -> list[Tensor]:
    """All activations of a few rows in batches, position 0 and outliers left out, as in training."""
    acts = torch.cat([found[site].float() for _, found in chunks(lm, rows, [site])])
    return list(without_outliers(acts).split(batch_size))


def without_outliers(acts: Tensor, ratio: float = 10.0) -> Tensor:
    """Rows of at most `ratio` times the median norm; all of them when ratio is 0."""
    if not ratio:
        return acts
    norms = acts.norm(dim=1)
    return acts[norms <= ratio * norms.median()]


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
        held: list[Tensor] = []
        count = 0
        for _, found in chunks(self.lm, self.rows, [self.site]):
            held.append(found[self.site].float())
            count += len(held[-1])
            if count >= self.buffer_tokens:
                mixed = self._mixed(held, generator)
                given = max(1, len(mixed) // 2 // self.batch_size) * self.batch_size
                yield from mixed[:given].split(self.batch_size)
                held, count = [mixed[given:].clone()], len(mixed) - given
        if held:
            for batch in self._mixed(held, generator).split(self.batch_size):
                if len(batch) == self.batch_size:
                    yield batch

    def _mixed(self, held: list[Tensor], generator: torch.Generator) -> Tensor:
        rows = without_outliers(torch.cat(held), self.outlier_ratio)
        return rows[torch.randperm(len(rows), generator=generator)]

    def identity(self) -> dict[str, Any]:
        """What the activations are of."""
        return {"lm": self.lm.identity(), "site": self.site, "text": self.rows.digest()}
