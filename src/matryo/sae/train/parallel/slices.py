"""A dictionary cut into slices of latents: begun, and saved, without anyone holding all of it."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matryo.sae.nn import SAE, SAEConfig, build
from matryo.sae.nn.folder import saelens_tensors, write_folder

if TYPE_CHECKING:
    from matryo.sae.train.parallel.processes import Processes

CHUNK_ROWS = 4_096
"""Rows of initial weights drawn at a time; a multiple of 16, see `draw_rows`."""


def slice_of(count: int, rank: int, size: int) -> tuple[int, int]:
    """First and one past the last of a process's share of `count` things in order."""
    return count * rank // size, count * (rank + 1) // size


def draw_rows(count: int, width: int, first: int, stop: int, generator: torch.Generator) -> Float[Tensor, "some width"]:
    """Rows first … stop−1 of torch.randn(count, width, generator=generator), and the generator as that leaves it.

    PyTorch draws normal numbers 16 at a time, so that pieces of a multiple of 16 numbers are those of one large draw;
    the last piece takes what is left, and is no shorter than 16.
    """
    kept = torch.empty(stop - first, width)
    starts = list(range(0, count, CHUNK_ROWS))
    if len(starts) > 1 and (count - starts[-1]) * width < 16:
        starts.pop()
    for start, end in zip(starts, [*starts[1:], count], strict=True):
        piece = torch.randn(end - start, width, generator=generator)
        low, high = max(start, first), min(end, stop)
        if low < high:
            kept[low - first : high - first] = piece[low - start : high - start]
    return kept


@torch.no_grad()
def build_slice(config: SAEConfig, rank: int, size: int) -> SAE:
    """A process's slice of `build(config)`: the same numbers, with no more than a slice in memory.

    Raises:
        ValueError: there are fewer latents than processes.
    """
    n, d_out = config.n_latents, config.d_out or config.d_in
    if n < size:
        raise ValueError(f"n_latents is {n} for {size} processes; expected at least one each: start fewer")
    first, stop = slice_of(n, rank, size)
    part = build(replace(config, n_latents=stop - first, k=1, levels="none", level_weights=()))
    generator = torch.Generator().manual_seed(config.seed)
    rows = draw_rows(n, d_out, first, stop, generator)
    rows = rows / rows.norm(dim=1, keepdim=True)
    enc = draw_rows(n, config.d_in, first, stop, generator) if config.transcoder else rows.clone()
    part.W_dec.copy_(rows)
    part.W_enc.copy_((enc / enc.norm(dim=1, keepdim=True)).t())
    part.config, part.first = config, first
    return part


@torch.no_grad()
def save_slices(sae: SAE, folder: Path, metadata: dict[str, Any], processes: Processes) -> None:
    """Write one ordinary folder from everyone's slices: the first process takes one slice at a time, and no more."""
    tensors = saelens_tensors(sae)
    n = sae.config.n_latents
    shapes = {
        name: [n if axis == _axis(name, value) else size for axis, size in enumerate(value.shape)]
        for name, value in tensors.items()
    }
    if processes.rank:
        for name in sorted(tensors):
            if _axis(name, tensors[name]) is not None:
                processes.send(_by_latent(name, tensors[name]).to(processes.device))
        processes.max_(torch.zeros((), device=processes.device))
        return

    def write(path: Path) -> None:
        files = _reserve(path, {name: (tensors[name].dtype, shapes[name]) for name in sorted(tensors)})
        for name in sorted(tensors):
            value, whole = tensors[name], files[name]
            if _axis(name, value) is None:
                whole[...] = value.numpy()
                continue
            by_latent = whole.T if name == "W_enc" else whole
            for sender in range(processes.size):
                low, high = slice_of(n, sender, processes.size)
                mine = _by_latent(name, value)
                if sender:
                    room = mine.new_empty(high - low, *mine.shape[1:], device=processes.device)
                    mine = processes.receive(room, sender).cpu()
                by_latent[low:high] = mine.numpy()
        for whole in files.values():
            whole.flush()

    write_folder(sae, folder, metadata, write)
    processes.max_(torch.zeros((), device=processes.device))


def _axis(name: str, value: Tensor) -> int | None:
    """Which axis of a saved tensor counts latents."""
    return None if name == "b_dec" or not value.dim() else 1 if name == "W_enc" else 0


def _by_latent(name: str, value: Tensor) -> Tensor:
    return (value.t() if name == "W_enc" else value).contiguous()


def _reserve(path: Path, tensors: dict[str, tuple[torch.dtype, list[int]]]) -> dict[str, np.memmap[Any, Any]]:
    """Make a safetensors file of zeros, and map its tensors."""
    kinds = {torch.float32: ("F32", np.float32), torch.float64: ("F64", np.float64)}
    header, place = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        header[name] = {"dtype": kinds[dtype][0], "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + place)
    return {
        name: np.memmap(path, kinds[dtype][1], "r+", 8 + len(text) + header[name]["data_offsets"][0], tuple(shape))
        for name, (dtype, shape) in tensors.items()
    }
