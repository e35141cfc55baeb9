"""Finding candidate parents in lower Matryoshka levels; what the numbers mean is told in `levels`."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from matryo.sae.dashboard.index import arrays
from matryo.sae.dashboard.index.levels import EDGE
from matryo.sae.kernels.compiled import serial

BY_CONTAINMENT = 12
BY_COSINE = 6
"""Candidates kept for each child: so many of the largest containment, and so many of the largest cosine."""

LEAST_CONTAINMENT = 0.1
"""Below it a candidate is kept for its cosine only."""


def find_edges(folder: Path, lengths: tuple[int, ...], units: NDArray[np.float32]) -> NDArray[Any]:
    """Candidate parents of every latent that fires and is not of the lowest level, by child and falling containment."""
    fwd_start, inv_start, inv_token = (
        arrays.load(folder / f"{n}.npy") for n in ("fwd_start", "inv_start", "inv_token")
    )
    latent, firings = arrays.flat(folder, "latent"), np.diff(inv_start)
    found = []
    for low, high in pairwise(lengths):
        for first in range(low, high, 1_024):
            children = np.arange(first, min(first + 1_024, high))
            alike = _alike(units, children, low)
            shape = (len(children), BY_CONTAINMENT)
            parent, count = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
            shared = np.zeros(alike.shape, np.int64)
            bounds = np.array([inv_start[first], inv_start[children[-1] + 1]])
            tokens = np.asarray(inv_token[bounds[0] : bounds[1]]).astype(np.int64)
            own = np.asarray(inv_start[first : children[-1] + 2]) - bounds[0]
            _count_together(np.asarray(fwd_start), np.asarray(latent), own, tokens, low, alike, shared, parent, count)
            found.append(_pairs(children, firings, parent, count, alike, shared))
    edges = np.concatenate(found) if found else np.zeros(0, EDGE)
    edges["containment"] = edges["together"] / firings[edges["child"]]
    edges["covered"] = edges["together"] / np.maximum(1, firings[edges["parent"]])
    for low in range(0, len(edges), 65_536):
        part = edges[low : low + 65_536]
        part["cosine"] = np.einsum("nd,nd->n", units[part["child"]], units[part["parent"]])
    return edges[np.lexsort((edges["parent"], -edges["containment"], edges["child"]))]


def _alike(units: NDArray[np.float32], children: NDArray, below: int) -> NDArray[np.int64]:
    """(children, BY_COSINE): the latents below `below` whose decoder rows have the largest cosines."""
    cosines = torch.from_numpy(np.array(units[children])) @ torch.from_numpy(np.array(units[:below])).t()
    return torch.topk(cosines, min(BY_COSINE, below)).indices.numpy()


@serial
def _count_together(fwd_start, latent, own, tokens, below, alike, shared, parent, count):  # pragma: no cover: compiled
    """Count, for every child, on how many of its tokens each latent below fires; keep the most frequent."""
    seen, touched = np.zeros(below, np.int64), np.zeros(below, np.int64)
    for child in range(len(own) - 1):
        n = 0
        for i in range(own[child], own[child + 1]):
            for j in range(fwd_start[tokens[i]], fwd_start[tokens[i] + 1]):
                p = latent[j]
                if p >= below:
                    break  # within a token latents ascend
                if seen[p] == 0:
                    touched[n] = p
                    n += 1
                seen[p] += 1
        for k in range(alike.shape[1]):
            shared[child, k] = seen[alike[child, k]]
        for i in range(n):
            p, c = touched[i], seen[touched[i]]
            seen[p] = 0
            k = parent.shape[1]
            while k > 0 and (count[child, k - 1] < c or (count[child, k - 1] == c and parent[child, k - 1] > p)):
                k -= 1
            if k < parent.shape[1]:
                for m in range(parent.shape[1] - 1, k, -1):
                    parent[child, m], count[child, m] = parent[child, m - 1], count[child, m - 1]
                parent[child, k], count[child, k] = p, c


def _pairs(children, firings, parent, count, alike, shared) -> NDArray[Any]:
    """Both kinds of candidates as edges, each pair once, of children that fire."""
    fires = firings[children]
    kept = (parent >= 0) & (count >= LEAST_CONTAINMENT * fires[:, None]) & (fires[:, None] > 0)
    listed = np.broadcast_to(fires[:, None] > 0, alike.shape)
    child = np.concatenate([np.repeat(children, kept.sum(1)), np.repeat(children, listed.sum(1))])
    pairs = np.zeros(len(child), EDGE)
    pairs["child"] = child
    pairs["parent"] = np.concatenate([parent[kept], alike[listed]])
    pairs["together"] = np.concatenate([count[kept], shared[listed]])
    return np.unique(pairs)
