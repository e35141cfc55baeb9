"""Meta-latents beside latents of smaller SAEs: nearest directions, and which latents they bring together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matryo.sae.compare.meta.decompose import Decomposition

MATCHED = 0.7
"""Cosine from which two directions count as the same latent (Leask et al., 2025, for GPT-2)."""

CHUNK_VALUES = 2**25
"""Cosines held at a time: 128 MiB in float32."""

MOST_PAIRS = 300_000_000
"""Pairs of latents that a graph may name, each as often as it is joined: 5 GB while they are sorted."""


@torch.no_grad()
def nearest(
    rows: Float[Tensor, "rows d"], dictionary: Float[Tensor, "n width"]
) -> tuple[Float[Tensor, "rows"], Int[Tensor, "rows"]]:
    """For every unit row the largest cosine with a unit row of the dictionary, and whose it is.

    Raises:
        ValueError: the widths differ.
    """
    if rows.shape[1] != dictionary.shape[1]:
        raise ValueError(
            f"a dictionary has width {dictionary.shape[1]}; expected {rows.shape[1]}: compare SAEs of one site"
        )
    found = [(part @ dictionary.t()).max(1) for part in rows.split(max(1, CHUNK_VALUES // len(dictionary)))]
    return torch.cat([best.values for best in found]).cpu(), torch.cat([best.indices for best in found]).cpu()


def nearest_of_several(
    rows: Float[Tensor, "rows d"], dictionaries: Mapping[str, Float[Tensor, "n d"]]
) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows d"]]:
    """For every row the most similar row of all dictionaries together: its cosine, and the row itself."""
    best, chosen = torch.full((len(rows),), -2.0), torch.empty(rows.shape)
    for dictionary in dictionaries.values():
        cosine, index = nearest(rows, dictionary)
        better = cosine > best
        best, chosen[better] = torch.where(better, cosine, best), dictionary.cpu()[index[better]]
    return best, chosen


def joined_pairs(latent: Int[Tensor, "entries"], other: Int[Tensor, "entries"], n: int) -> Int[Tensor, "edges"]:
    """The pairs of latents i < j that share some `other`, each once as the number i · n + j, ascending.

    Raises:
        ValueError: there are more than memory should hold, because nearly all latents share one.
    """
    if (named := pairs_named(other)) > MOST_PAIRS:
        raise ValueError(f"{named:,} pairs of latents are joined; expected at most {MOST_PAIRS:,}: lower k")
    order = torch.argsort(other, stable=True)
    latent, counts = latent[order], torch.bincount(other)
    found, start = [torch.empty(0, dtype=torch.long)], 0
    for count in counts[counts > 0].tolist():
        members = latent[start : start + count].sort().values
        start += count
        first, second = torch.triu_indices(count, count, 1)
        found.append(members[first] * n + members[second])
    return torch.unique(torch.cat(found))


def pairs_named(other: Int[Tensor, "entries"]) -> int:
    """How many pairs `joined_pairs` would name, repetitions included."""
    counts = torch.bincount(other)
    return int((counts * (counts - 1) // 2).sum())


@dataclass(frozen=True)
class EdgeOverlap:
    """Two graphs on the same latents, and the edges they share."""

    edges: int
    "Pairs of latents that share a meta-latent."
    edges_smaller: int
    "Pairs that share a neighbour in the smaller SAE, as near to `edges` as a threshold can bring it."
    threshold: float
    "The cosine above which a latent and a smaller SAE's latent are neighbours."
    shared: int
    overlap: float
    "shared / edges."
    chance: float
    "Expected overlap if the smaller SAE's edges were placed at random: edges_smaller / (n (n − 1) / 2)."


def measure_overlap(
    decomposition: Decomposition, directions: Float[Tensor, "n d"], smaller: Float[Tensor, "s d"]
) -> EdgeOverlap:
    """Edges shared by the meta-latent graph and a smaller SAE's neighbour graph, at equal edge count.

        i ~ j  if a_im > 0 and a_jm > 0 for some meta-latent m            (edges E)
        i ≈ j  if cos(w_i, u_s) > τ and cos(w_j, u_s) > τ for some s      (edges E′; τ such that |E′| is nearest |E|)
        overlap = |E ∩ E′| / |E|

    The paper says so in words (28.92 % for GPT-2's 49,152 latents and 3,072); the equations are ours.

    Raises:
        ValueError: no two latents share a meta-latent.
    """
    n = len(directions)
    edges = joined_pairs(decomposition.latent, decomposition.meta, n)
    if not len(edges):
        raise ValueError(f"no two of {n} latents share a meta-latent; expected some edges: raise k or lower n_meta")
    pairs = _Neighbours(directions, smaller)
    low, high = 0, 1
    while high < pairs.most and pairs.count(high) < len(edges):
        low, high = high, min(2 * high, pairs.most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if pairs.count(middle) < len(edges) else (low, middle)
    count = min((low, high), key=lambda number: abs(pairs.count(number) - len(edges)))
    others = pairs.edges(count)
    shared = int(torch.isin(edges, others, assume_unique=True).sum())
    return EdgeOverlap(
        edges=len(edges),
        edges_smaller=len(others),
        threshold=pairs.threshold(count),
        shared=shared,
        overlap=shared / len(edges),
        chance=len(others) / (n * (n - 1) / 2),
    )


class _Neighbours:
    """The pairs (latent, smaller SAE's latent) by descending cosine, as many as are asked for."""

    def __init__(self, directions: Tensor, smaller: Tensor) -> None:
        self.directions, self.smaller = directions, smaller
        self.most = len(directions) * len(smaller)
        self.cosine, self.key = torch.empty(0), torch.empty(0, dtype=torch.long)

    def edges(self, count: int) -> Tensor:
        """The pairs of latents that the `count` nearest neighbours join."""
        latent, other = self._nearest(count)
        return joined_pairs(latent, other, len(self.directions))

    def count(self, count: int) -> int:
        """How many they are; as good as all pairs where they are too many to name."""
        named = pairs_named(self._nearest(count)[1])
        return named if named > MOST_PAIRS else len(self.edges(count))

    def threshold(self, count: int) -> float:
        """The cosine halfway between the last of `count` neighbours and the next."""
        self._reach(min(count + 1, self.most))
        return float(self.cosine[max(count - 1, 0) : count + 1].mean())

    def _nearest(self, count: int) -> tuple[Tensor, Tensor]:
        self._reach(count)
        key = self.key[:count]
        return key // len(self.smaller), key % len(self.smaller)

    def _reach(self, count: int) -> None:
        if count <= len(self.key):
            return
        count = min(max(2 * count, 2**18), self.most)
        cosine, key = torch.empty(0), torch.empty(0, dtype=torch.long)
        step = max(1, CHUNK_VALUES // len(self.smaller))
        for start, rows in zip(range(0, len(self.directions), step), self.directions.split(step), strict=True):
            flat = (rows @ self.smaller.t()).flatten()
            top = torch.topk(flat, min(count, len(flat)))
            cosine = torch.cat([cosine, top.values.cpu()])
            key = torch.cat([key, top.indices.cpu() + start * len(self.smaller)])
            best = torch.topk(cosine, min(count, len(cosine)))
            cosine, key = best.values, key[best.indices]
        self.cosine, self.key = cosine, key
