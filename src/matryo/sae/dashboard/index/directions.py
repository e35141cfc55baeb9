"""What follows from decoder rows alone: unit rows, neighbours, a plane to draw them in, and the logits they raise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 1_024
"""Latents compared with all others at a time."""

LISTED = 15
"""Tokens kept at either end of a latent's logits."""

LOGIT_BINS = 40


def unit_rows(w_dec: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Decoder rows at unit norm, zero rows staying zero, and the norms."""
    rows = w_dec.detach().float()
    norms = torch.linalg.vector_norm(rows, dim=1)
    return (rows / norms.clamp_min(1e-12)[:, None]).numpy(), norms.numpy()


def encoder_cosine(w_enc: Tensor, w_dec: Tensor) -> NDArray[np.float32]:
    """Cosine of every latent's encoder column and decoder row; nan where they have different widths."""
    if w_enc.shape[0] != w_dec.shape[1]:
        return np.full(len(w_dec), np.nan, np.float32)
    return torch.nn.functional.cosine_similarity(w_enc.detach().float().t(), w_dec.detach().float(), dim=1).numpy()


def nearest(rows: NDArray, others: NDArray, same: bool) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """For each unit row the other row with the largest cosine; of `same` dictionaries, not itself."""
    best, cosine = np.full(len(rows), -1, np.int32), np.full(len(rows), np.nan, np.float32)
    theirs = torch.from_numpy(np.array(others)).t()
    if len(others) <= int(same):
        return best, cosine
    for low in range(0, len(rows), BLOCK):
        part = torch.from_numpy(np.array(rows[low : low + BLOCK])) @ theirs
        if same:
            part[torch.arange(len(part)), low + torch.arange(len(part))] = -2.0
        value, index = part.max(1)
        best[low : low + BLOCK], cosine[low : low + BLOCK] = index.numpy(), value.numpy()
    return best, cosine


def plane(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 2): unit rows on their first two principal components, the same on every machine up to rounding.

    A component's sign is chosen so that its largest coordinate in absolute value is positive.
    """
    centred = torch.from_numpy(rows - rows.mean(0))
    values, vectors = torch.linalg.eigh((centred.t() @ centred).double())
    top = vectors[:, values.argsort(descending=True)[:2]].float()
    place = (centred @ top).numpy()
    if place.shape[1] < 2:
        place = np.pad(place, ((0, 0), (0, 2 - place.shape[1])))
    biggest = np.abs(place).argmax(0)
    signs = np.sign(place[biggest, [0, 1]])
    return (place * np.where(signs == 0, 1, signs)).astype(np.float32)


@dataclass(frozen=True)
class Logits:
    """What each decoder row adds to the logits, without the model's final norm, minus its mean over the vocabulary."""

    top_token: NDArray[np.int32]
    "(n_latents, LISTED), the most raised first."
    top: NDArray[np.float32]
    low_token: NDArray[np.int32]
    "The most lowered first."
    low: NDArray[np.float32]
    histogram: NDArray[np.uint32]
    "(n_latents, LOGIT_BINS) over equal intervals of [smallest, largest]."


def read_logits(rows: Tensor, unembed: Tensor, advance: Callable[[int], object] = lambda n: None) -> Logits:
    """Logits of decoder rows (n, d) through the unembedding (d, vocabulary), each minus its mean."""
    parts: list[list[NDArray]] = []
    for block in rows.detach().float().split(128):
        logits = block @ unembed
        logits -= logits.mean(1, keepdim=True)
        count = min(LISTED, logits.shape[1])
        top, top_token = torch.topk(logits, count)
        low, low_token = torch.topk(logits, count, largest=False)
        first, last = low[:, :1], top[:, :1]
        width = (last - first).clamp_min(1e-12)
        slot = ((logits - first) / width * LOGIT_BINS).long().clamp_(0, LOGIT_BINS - 1)
        slot += torch.arange(len(block))[:, None] * LOGIT_BINS
        counts = torch.bincount(slot.flatten(), minlength=len(block) * LOGIT_BINS).view(-1, LOGIT_BINS)
        found = (top_token.int(), top, low_token.int(), low, counts.to(torch.int64))
        parts.append([part.numpy() for part in found])
        advance(len(block))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    top_token, top, low_token, low, counts = columns
    return Logits(top_token, top, low_token, low, counts.astype(np.uint32))
