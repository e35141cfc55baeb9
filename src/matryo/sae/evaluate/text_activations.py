"""What the model and the autoencoders make of many short texts: one pass of the model, then means over tokens."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import prange
from numpy.typing import NDArray
from torch import Tensor

from matryo.sae.kernels.compiled import parallel, threads
from matryo.sae.lm import LM, capture
from matryo.sae.nn import SAE
from matryo.spine.config import write_text
from matryo.spine.errors import check_space

PASS_TOKENS = 2_048
"""Tokens in a pass of the model, and in a batch of the autoencoders."""

STALE_SECONDS = 24 * 3600
"""A file begun this long ago belongs to a process that was killed."""


@dataclass(frozen=True, eq=False)
class TextActivations:
    """Raw activations of every token of every text, BOS left out; on disk, read by memory map.

    Texts lie in the order of their lengths.
    """

    values: NDArray[np.float32]
    "(tokens, d_in)."
    start: Int[Tensor, "texts_and_one"]
    "Where each text's tokens begin, in the order of `order`."
    order: Int[Tensor, "texts"]
    "Number of the text at each place."

    def mean(self) -> Float[Tensor, "texts d_in"]:
        """x̄_t = Σ_p x_tp / length_t, of every text."""
        found = torch.empty(len(self.order), self.values.shape[1])
        for places, x, lengths in self.batches():
            owner = torch.repeat_interleave(torch.arange(len(places)), lengths)
            total = torch.zeros(len(places), x.shape[1]).index_add_(0, owner, x)
            found[self.order[places]] = total / lengths[:, None]
        return found

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Places of some texts, the activations of their tokens, and how many tokens each has."""
        at, count = 0, len(self.order)
        while at < count:
            stop = int(torch.searchsorted(self.start, self.start[at] + PASS_TOKENS, right=True)) - 1
            stop = min(max(stop, at + 1), count)
            first, last = int(self.start[at]), int(self.start[stop])
            yield (
                torch.arange(at, stop),
                torch.from_numpy(np.array(self.values[first:last])),
                self.start[at + 1 : stop + 1] - self.start[at:stop],
            )
            at = stop


@dataclass(frozen=True, eq=False)
class PooledLatents:
    """Mean latents of every text, z̄_tj = ‖W_dec[j]‖ Σ_p z_tpj / length_t, listed latent by latent where not 0.

    Latents are in units of what they add to the reconstruction, so that nothing depends on how a dictionary shares
    scales between its rows and its latents; with unit rows, as SAEBench expects, they are the latents themselves.
    """

    start: NDArray[np.int64]
    "Where each latent's entries begin (n_latents + 1,)."
    text: NDArray[np.int32]
    value: NDArray[np.float32]
    n_texts: int
    directions: Float[Tensor, "n_latents d_in"]
    "Decoder rows at unit norm."

    @property
    def n_latents(self) -> int:
        """Latents of the dictionary."""
        return len(self.start) - 1

    def weighted_sums(self, weight: Float[Tensor, "texts columns"]) -> Float[Tensor, "n_latents columns"]:
        """Σ_t z̄_tj · weight_t, of every latent."""
        found = np.zeros((self.n_latents, weight.shape[1]), np.float32)
        _weighted_sums(self.start, self.text, self.value, weight.numpy().astype(np.float32), found, threads())
        return torch.from_numpy(found)

    def columns(self, latents: Int[Tensor, "some"]) -> Float[Tensor, "texts some"]:
        """Dense columns of some latents."""
        found = torch.zeros(len(latents), self.n_texts)
        for at, latent in enumerate(latents.tolist()):
            entries = slice(self.start[latent], self.start[latent + 1])
            found[at, torch.from_numpy(self.text[entries]).long()] = torch.from_numpy(self.value[entries])
        return found.T


@parallel
def _weighted_sums(start, text, value, weight, found, parts):
    """found[j] = Σ over latent j's entries of value · weight[text]."""
    n = len(start) - 1
    for part in prange(parts):
        for latent in range(part, n, parts):
            mine = found[latent]
            for entry in range(start[latent], start[latent + 1]):
                row, v = weight[text[entry]], value[entry]
                for column in range(len(mine)):
                    mine[column] += v * row[column]


@torch.no_grad()
def pool_latents(
    sae: SAE, acts: TextActivations, advance: Callable[[int], object] = lambda tokens: None
) -> PooledLatents:
    """Mean latents of every text."""
    sae, device = sae.eval(), sae.W_dec.device
    norms = torch.linalg.vector_norm(sae.W_dec.detach(), dim=1).clamp_min(1e-12)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for places, x, lengths in acts.batches():
        entries = sae.encode_sparse(x.to(device, sae.W_dec.dtype))
        owner = torch.repeat_interleave(torch.arange(len(places), device=device), lengths.to(device))
        key = owner[entries.row] * sae.config.n_latents + entries.latent
        distinct, at = torch.unique(key, return_inverse=True)
        total = torch.zeros(len(distinct), dtype=torch.float64, device=device)
        total.index_add_(0, at, (entries.value * norms[entries.latent]).double())
        place, latent = (distinct // sae.config.n_latents).cpu(), (distinct % sae.config.n_latents).cpu()
        parts.append((acts.order[places[place]], latent, (total.cpu() / lengths[place]).float()))
        advance(len(x))
    text, latent, value = (torch.cat(columns) for columns in zip(*parts, strict=True))
    by_latent = torch.argsort(latent, stable=True)
    start = torch.zeros(sae.config.n_latents + 1, dtype=torch.long)
    torch.cumsum(torch.bincount(latent, minlength=sae.config.n_latents), 0, out=start[1:])
    return PooledLatents(
        start.numpy(),
        text[by_latent].to(torch.int32).numpy(),
        value[by_latent].numpy(),
        len(acts.order),
        (sae.W_dec.detach() / norms[:, None]).float().cpu(),
    )


def merge_pooled(parts: Sequence[PooledLatents]) -> PooledLatents:
    """Pooled latents of one block of texts after another, numbered on."""
    first = np.cumsum([0, *(part.n_texts for part in parts)])
    n_latents = parts[0].n_latents
    latent = np.concatenate([np.repeat(np.arange(n_latents), np.diff(part.start)) for part in parts])
    text = np.concatenate([part.text + np.int32(offset) for part, offset in zip(parts, first[:-1], strict=True)])
    by_latent = np.argsort(latent, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(latent, minlength=n_latents))])
    value = np.concatenate([part.value for part in parts])
    return PooledLatents(start, text[by_latent], value[by_latent], int(first[-1]), parts[0].directions)


def read_texts(
    lm: LM,
    site: str,
    texts: Sequence[str],
    most: int,
    folder: Path | None = None,
    advance: Callable[[int], object] = lambda tokens: None,
) -> TextActivations:
    """Run the model once over every text's first `most` tokens, behind BOS.

    Texts of about the same length go together, filled up at their ends: attention is causal, so that what follows a
    token cannot change it.

    Args:
        lm: the model.
        site: whose activations.
        texts: distinct texts.
        most: tokens of each, BOS not counted.
        folder: keeps the activations, and is read instead of running the model where it has them.
        advance: told the tokens done.

    Raises:
        ValueError: a text without a token, or activations that are not finite.
        OSError: the disk has no room.
    """
    ids = [found[:most] for found in lm.encode(list(texts))]
    for text, found in zip(texts, ids, strict=True):
        if not found:
            raise ValueError(f"text {text[:40]!r} has no token; expected at least one: leave it out")
    lengths = torch.tensor([len(found) for found in ids])
    order = torch.argsort(lengths, stable=True)
    start = torch.zeros(len(ids) + 1, dtype=torch.long)
    torch.cumsum(lengths[order], 0, out=start[1:])
    kept, told = None, {}
    if folder is not None:
        told = {"lm": lm.identity(), "site": site, "texts": _digest(texts), "most": most}
        name = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
        kept = folder / f"texts-{name}.npy"
        if kept.is_file():
            return TextActivations(np.load(kept, mmap_mode="r", allow_pickle=False), start, order)
    width = capture(lm, torch.full((1, 2), lm.bos_id), [site])[site].shape[-1]
    place = Path(folder or tempfile.gettempdir())
    check_space(place, 4 * int(start[-1]) * width, "activations of labelled texts")
    place.mkdir(parents=True, exist_ok=True)
    partial = _new_file(place)
    try:
        shape = (int(start[-1]), width)
        values = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        if folder is None:
            partial.unlink()  # an open map outlives its name, and nothing is left behind
        _fill(values, lm, site, [ids[i] for i in order.tolist()], start, advance)
        if kept is not None:
            values.flush()
            write_text(kept.with_suffix(".json"), json.dumps(told, indent=1))
            partial.replace(kept)
        return TextActivations(values, start, order)
    finally:
        partial.unlink(missing_ok=True)


def _new_file(folder: Path) -> Path:
    """A file of this process alone; what killed processes have left is removed."""
    for left in folder.glob(".texts-*.npy"):
        if time.time() - left.stat().st_mtime > STALE_SECONDS:
            left.unlink(missing_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".texts-", suffix=".npy", delete=False) as file:
        return Path(file.name)


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _fill(
    values: np.memmap, lm: LM, site: str, ids: list[list[int]], start: Tensor, advance: Callable[[int], object]
) -> None:
    """Write the activations of token lists, which come shortest first."""
    at = 0
    while at < len(ids):
        stop = at + 1
        while stop < len(ids) and (stop + 1 - at) * (1 + len(ids[stop])) <= PASS_TOKENS:
            stop += 1
        longest = len(ids[stop - 1])
        rows = torch.full((stop - at, 1 + longest), lm.bos_id)
        real = torch.zeros(stop - at, longest, dtype=torch.bool)
        for row, found in enumerate(ids[at:stop]):
            rows[row, 1 : 1 + len(found)] = torch.tensor(found)
            real[row, : len(found)] = True
        found = capture(lm, rows, [site])[site][:, 1:].float().cpu()[real]
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"{site} of {lm.name} is NaN or infinite on a text; expected finite numbers: use float32")
        values[int(start[at]) : int(start[stop])] = found.numpy()
        advance(len(found))
        at = stop
