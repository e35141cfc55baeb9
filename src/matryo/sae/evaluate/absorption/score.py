"""What is absorption on one token: the two definitions of SAEBench, at the active entries only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matryo.sae.kernels import Entries

SILENT = 1e-8
"""A latent below this is not active (SAEBench)."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Constants of the two definitions, SAEBench 0.6.0's by default."""

    full_cosine: float = 0.025
    fraction_cosine: float = 0.1
    share: float = 0.4
    absorbers: int = 3


@dataclass(frozen=True, eq=False)
class Absorbed:
    """Both measures of every token, and which latent projects most on the probe."""

    fraction: Float[Tensor, "rows"]
    full: Bool[Tensor, "rows"]
    top: Int[Tensor, "rows"]
    "Latent of the largest projection; −1 where no active latent projects positively."


def absorbed(
    x: Float[Tensor, "rows d"],
    entries: Entries,
    unit_rows: Float[Tensor, "n_latents d"],
    probe: Float[Tensor, "d"],
    main: Int[Tensor, "k"],
    limits: Thresholds,
) -> Absorbed:
    """Absorption of a concept on tokens where its probe fires.

    With p = probe / ‖probe‖, cos_i the cosine of decoder row i and p, a_i the latent's activation (decoder rows of norm
    1), proj_i = a_i cos_i, P = x·p, and the main latents S:

        full     = every a_i < 1e-8 for i ∈ S, P > 0, and the latent t of the largest projection has
                   cos_t ≥ full_cosine and proj_t / P ≥ share
        M        = Σ_{i ∈ S} proj_i
        A        = Σ of the `absorbers` largest proj_i > 0 with i ∉ S and cos_i ≥ fraction_cosine
        fraction = 0 if M ≥ P or A / P < share;  1 if M ≤ 0;  else a / (a + M) with a = min(A, P − M)

    Where P ≤ 0 both are 0; SAEBench divides by such a P. A probe's logit may be positive there through its bias.

    Args:
        x: activations.
        entries: their active latents, in units in which decoder rows have norm 1.
        unit_rows: decoder rows divided by their norms.
        probe: the concept's direction.
        main: its latents S.
        limits: the constants.
    """
    rows = len(x)
    unit = (probe / probe.norm()).float()
    cosines, P = unit_rows @ unit, x.float() @ unit
    row, cos = entries.row, cosines[entries.latent]
    proj = entries.value * cos
    is_main = torch.isin(entries.latent, main)
    M = _sums(row[is_main], proj[is_main], rows)
    loud = _sums(row[is_main], (entries.value[is_main] >= SILENT).float(), rows) > 0
    may = ~is_main & (cos >= limits.fraction_cosine) & (proj > 0)
    A = _sums_of_largest(row[may], proj[may], rows, limits.absorbers)
    top_proj, top = _largest(row, proj, entries.latent, rows)
    positive = P > 0
    enough = positive & (A / P.where(positive, torch.ones_like(P)) >= limits.share)
    a = torch.minimum(A, P - M)
    fraction = torch.where(M <= 0, torch.ones_like(P), a / (a + M)).where(enough & (M < P), torch.zeros_like(P))
    strong = positive & (top_proj / P.where(positive, torch.ones_like(P)) >= limits.share)
    full = ~loud & strong & (top >= 0) & (cosines[top.clamp(min=0)] >= limits.full_cosine)
    return Absorbed(fraction, full, top)


def _sums(row: Tensor, value: Tensor, rows: int) -> Tensor:
    return torch.zeros(rows, dtype=torch.float, device=value.device).index_add_(0, row, value.float())


def _ranked(row: Tensor, value: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The order that sorts by row and, within it, from the largest value; and each one's rank within its row."""
    order = torch.argsort(value, descending=True, stable=True)
    order = order[torch.argsort(row[order], stable=True)]
    counts = torch.bincount(row, minlength=rows)
    start = counts.cumsum(0) - counts
    return order, torch.arange(len(row), device=row.device) - start[row[order]]


def _sums_of_largest(row: Tensor, value: Tensor, rows: int, count: int) -> Tensor:
    order, rank = _ranked(row, value, rows)
    chosen = order[rank < count]
    return _sums(row[chosen], value[chosen], rows)


def _largest(row: Tensor, value: Tensor, latent: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Value and latent of every row's largest entry; 0 and −1 where no entry is above 0."""
    order, rank = _ranked(row, value, rows)
    chosen = order[rank == 0]
    chosen = chosen[value[chosen] > 0]
    top = value.new_zeros(rows)
    which = torch.full((rows,), -1, dtype=torch.long, device=row.device)
    top[row[chosen]], which[row[chosen]] = value[chosen], latent[chosen]
    return top, which
