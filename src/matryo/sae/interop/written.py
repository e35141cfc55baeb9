"""Writing an SAE in a format, whole or not at all."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import torch

from matryo.sae.interop.foreign import needs_threshold
from matryo.sae.nn import SAE
from matryo.spine.errors import unknown

WRITERS = ("saelens", "dictionary_learning")
"""The formats that can be written, by the name of the module that does."""


def write_sae(sae: SAE, to: str, folder: Path, metadata: dict[str, Any] | None = None) -> list[str]:
    """Write an SAE into a new folder, and return what had to be folded, one line each.

    Raises:
        ValueError: an unknown format, one that cannot hold this SAE exactly, or no inference threshold yet.
        FileExistsError: the folder has something in it.
    """
    if to not in WRITERS:
        raise unknown("format to write", to, WRITERS)
    if needs_threshold(sae):
        raise ValueError(
            f"this {sae.config.kind} SAE has no inference threshold; expected one: give --threshold, or call "
            "sae.calibrate(batches) on activations"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty; expected a new folder: give another --out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as made:
        part = Path(made) / "sae"
        part.mkdir()
        notes = importlib.import_module(f"matryo.sae.interop.{to}").write(sae, part, metadata or {})
        part.replace(folder)
    return notes


@torch.no_grad()
def largest_difference(one: SAE, other: SAE, rows: int = 64) -> float:
    """Give max |x̂ − x̂'| over `rows` standard normal inputs, relative to the largest |x̂|."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, one.config.d_in, generator=generator, dtype=torch.float64)
    first, second = one(x.to(one.W_dec)).double(), other(x.to(other.W_dec)).double()
    return float((first - second).abs().max() / first.abs().max().clamp_min(1e-30))
