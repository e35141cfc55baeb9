"""Which latents of two dictionaries point the same way: decoder cosines, block by block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 4_096
"""Rows of either dictionary multiplied at a time: a block of cosines has 64 MiB in float32."""

MOST_EDGES = 50_000_000
"""Edges held at most, 1 GB; more of them is a threshold that separates nothing."""

MOST_ASSIGNED = 2**28
"""Cosines held at most for an assignment, 2 GiB in float64."""


@dataclass(frozen=True)
class Nearest:
    """For every row of one dictionary, the row of the other with the largest cosine."""

    cosine: Float[Tensor, "n"]
    latent: Int[Tensor, "n"]


@dataclass(frozen=True)
class Edges:
    """Pairs of latents of two dictionaries, by ascending (large, small), with their decoder cosine."""

    large: Int[Tensor, "edges"]
    small: Int[Tensor, "edges"]
    cosine: Float[Tensor, "edges"]


@torch.no_grad()
def match_rows(
    large: Float[Tensor, "n_large d"], small: Float[Tensor, "n_small _"], block: int = BLOCK
) -> tuple[Nearest, Nearest]:
    """Find the nearest row of every row, both ways, from one product.

        c_j = max_i cos(large_j, small_i),    c'_i = max_j cos(large_j, small_i).

    Memory is that of one block of cosines, whatever the sizes. A row of zeros has cosine 0 with everything.
    """
    there = _empty(len(large), large)
    back = _empty(len(small), large)
    for i, j, cosines in _blocks(large, small, block):
        _take(there, i, j, cosines.max(1))
        _take(back, j, i, cosines.max(0))
    return there, back


@torch.no_grad()
def similar_pairs(
    large: Float[Tensor, "n_large d"], small: Float[Tensor, "n_small _"], above: float, block: int = BLOCK
) -> Edges:
    """All pairs with a cosine above a threshold.

    Raises:
        ValueError: there are more than can be held.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    count = 0
    for i, j, cosines in _blocks(large, small, block):
        a, b = (cosines > above).nonzero(as_tuple=True)
        count += len(a)
        if count > MOST_EDGES:
            raise ValueError(f"more than {MOST_EDGES:,} pairs have a cosine above {above}; expected fewer: raise it")
        found.append((a + i, b + j, cosines[a, b]))
    a, b, cosine = (torch.cat(part) for part in zip(*found, strict=True))
    order = torch.argsort(a * len(small) + b)
    return Edges(a[order], b[order], cosine[order])


@torch.no_grad()
def assign_rows(large: Float[Tensor, "n_large d"], small: Float[Tensor, "n_small _"]) -> Edges:
    """The one-to-one matching with the largest sum of cosines (Hungarian method), min(n_large, n_small) pairs.

    Raises:
        ValueError: the matrix of cosines is too large to be held.
    """
    if len(large) * len(small) > MOST_ASSIGNED:
        raise ValueError(
            f"an assignment of {len(large):,} and {len(small):,} latents needs all their cosines in memory; expected "
            "at "
            f"most {MOST_ASSIGNED:,}: leave --assignment out"
        )
    from scipy.optimize import linear_sum_assignment

    cosines = _unit(large) @ _unit(small).t()
    a, b = (torch.from_numpy(part) for part in linear_sum_assignment(cosines.cpu().numpy(), maximize=True))
    return Edges(a, b, cosines[a, b])


def _blocks(large: Tensor, small: Tensor, block: int):
    """(first row of large, first row of small, their cosines) for every pair of blocks."""
    if large.shape[1] != small.shape[1]:
        raise ValueError(f"dictionaries have widths {large.shape[1]} and {small.shape[1]}; expected equal ones")
    for i in range(0, len(large), block):
        rows = _unit(large[i : i + block])
        for j in range(0, len(small), block):
            yield i, j, rows @ _unit(small[j : j + block]).t()


def _unit(rows: Tensor) -> Tensor:
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def _empty(n: int, like: Tensor) -> Nearest:
    return Nearest(like.new_full((n,), -2.0), torch.zeros(n, dtype=torch.long, device=like.device))


def _take(nearest: Nearest, first: int, other: int, found: tuple[Tensor, Tensor]) -> None:
    """Put what a block found in place of what earlier ones did, where it is larger."""
    value, index = found
    here = slice(first, first + len(value))
    better = value > nearest.cosine[here]
    nearest.cosine[here] = torch.where(better, value, nearest.cosine[here])
    nearest.latent[here] = torch.where(better, index + other, nearest.latent[here])
