"""Reconstruction on held-out activations, streaming and independent of how they are split into batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from matryo.sae.metrics import ActivityMeter, FvuMeter
from matryo.sae.nn import SAE


@dataclass(frozen=True)
class Reconstruction:
    """One autoencoder on held-out tokens."""

    tokens: int
    fvu: float
    "Σ‖x − x̂‖² / Σ‖x − x̄‖²."
    l0: float
    "Mean active latents per token."
    dead: float
    "Share of latents active on none of these tokens."
    level_fvu: dict[int, float]
    "FVU of every Matryoshka prefix."
    level_l0: dict[int, float]
    "Mean active latents per token within every prefix."


@torch.no_grad()
def measure_reconstruction(saes: Mapping[str, SAE], batches: Iterable[Tensor]) -> dict[str, Reconstruction]:
    """Measure every autoencoder on the same batches of raw activations, read once.

    Dead latents are counted over these tokens: a small sample calls a rare latent dead that is not.

    Raises:
        ValueError: there are no batches.
    """
    fvu = {name: {level: FvuMeter() for level in sae.config.lengths} for name, sae in saes.items()}
    activity = {name: ActivityMeter(sae.config.n_latents) for name, sae in saes.items()}
    tokens = 0
    for x in batches:
        tokens += len(x)
        for name, sae in saes.items():
            x = x.to(sae.W_dec)
            entries = sae.eval().encode_sparse(x)
            activity[name].update(entries.latent, len(x))
            for level, meter in fvu[name].items():
                meter.update(x, sae.decode_sparse(entries, level))
    if not tokens:
        raise ValueError("there are 0 held-out tokens; expected some: raise heldout_fraction")
    found = {}
    for name, sae in saes.items():
        counts = activity[name].firings.cumsum(0)
        found[name] = Reconstruction(
            tokens=tokens,
            fvu=fvu[name][sae.config.n_latents].result(),
            l0=activity[name].l0(),
            dead=activity[name].dead_fraction(),
            level_fvu={level: meter.result() for level, meter in fvu[name].items()},
            level_l0={level: float(counts[level - 1]) / tokens for level in sae.config.lengths},
        )
    return found
