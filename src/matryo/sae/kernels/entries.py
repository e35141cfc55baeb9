"""The active entries of a (batch, n_latents) matrix, row by row and latent by latent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Entries:
    """Active entries in compressed rows: row r owns entries row_start[r] … row_start[r+1]−1, by ascending latent.

    `value` holds what was selected on (pre-activations in training, latents after `with_value`); an entry may
    have value 0 when a rule needs its gradient without its being active (the window of a JumpReLU).
    """

    row_start: Int[Tensor, "rows_and_one"]
    latent: Int[Tensor, "entries"]
    value: Float[Tensor, "entries"]
    n_latents: int

    @classmethod
    def from_pairs(
        cls,
        row: Int[Tensor, "entries"],
        latent: Int[Tensor, "entries"],
        value: Float[Tensor, "entries"],
        n_rows: int,
        n_latents: int,
    ) -> Entries:
        """Sort (row, latent) pairs, each at most once, into compressed rows."""
        key, order = torch.sort(row * n_latents + latent)
        row_start = torch.zeros(n_rows + 1, dtype=torch.long, device=row.device)
        torch.cumsum(torch.bincount(row, minlength=n_rows), 0, out=row_start[1:])
        return cls(row_start, key % n_latents, value[order], n_latents)

    @property
    def n_rows(self) -> int:
        """Number of rows (tokens)."""
        return len(self.row_start) - 1

    @property
    def l0(self) -> float:
        """Mean number of entries with a positive value per row."""
        return float((self.value > 0).sum()) / max(self.n_rows, 1)

    @property
    def fired(self) -> Bool[Tensor, "n_latents"]:
        """Latents with a positive value in some row."""
        out = torch.zeros(self.n_latents, dtype=torch.bool, device=self.latent.device)
        out[self.latent[self.value > 0]] = True
        return out

    @cached_property
    def row(self) -> Int[Tensor, "entries"]:
        """The row of every entry."""
        counts = self.row_start.diff()
        rows = torch.arange(self.n_rows, device=counts.device)
        # The size is known: without it a GPU would be waited for.
        return torch.repeat_interleave(rows, counts, output_size=len(self.latent))

    @cached_property
    def by_latent(self) -> tuple[Int[Tensor, "entries"], Int[Tensor, "latents_and_one"]]:
        """The latent-major view: the order that sorts entries by latent, and where each latent's entries start."""
        order = torch.argsort(self.latent, stable=True)
        start = torch.zeros(self.n_latents + 1, dtype=torch.long, device=order.device)
        torch.cumsum(torch.bincount(self.latent, minlength=self.n_latents), 0, out=start[1:])
        return order, start

    def with_value(self, value: Float[Tensor, "entries"]) -> Entries:
        """The same entries with other values, detached."""
        return Entries(self.row_start, self.latent, value.detach(), self.n_latents)

    def prefix(self, level: int) -> Entries:
        """Only the entries of the first `level` latents."""
        keep = self.latent < level
        return Entries.from_pairs(self.row[keep], self.latent[keep], self.value[keep], self.n_rows, level)

    def dense(self) -> Float[Tensor, "rows n_latents"]:
        """The (rows, n_latents) matrix; zero where there is no entry."""
        out = self.value.new_zeros(self.n_rows, self.n_latents)
        out[self.row, self.latent] = self.value
        return out
