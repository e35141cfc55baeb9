"""The passages on which a latent is most active."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matryo.sae.metrics import ActivityMeter
from matryo.sae.nn import SAE


@dataclass(frozen=True)
class Passage:
    """A stretch of one row around the token where a latent peaks."""

    row: int
    first: int
    "Position of its first token in the row."
    peak: int
    "Position of the most active token."
    values: tuple[float, ...]
    "The latent's activation on every token of the passage."


@dataclass(frozen=True)
class Passages:
    """A latent with its most active passages, one per row, the strongest first."""

    latent: int
    density: float
    "Share of tokens on which it is active."
    largest: float
    "Its largest activation."
    passages: tuple[Passage, ...]


@torch.no_grad()
def collect_passages(
    sae: SAE,
    chunks: Callable[[], Iterable[tuple[int, Tensor]]],
    row_length: int,
    choose: Callable[[Float[Tensor, "n_latents"], Int[Tensor, "n_latents"]], Sequence[int]],
    count: int = 6,
    context: int = 12,
) -> list[Passages]:
    """The strongest passages of chosen latents, in one pass over activations in token order.

    Args:
        sae: takes raw activations.
        chunks: gives (number of the first token, activations) in token order; tokens are numbered row by row over
            positions 1 … row_length − 1.
        row_length: positions in a row, BOS included.
        choose: from every latent's density and number of firings to the latents wanted.
        count: passages per latent.
        context: tokens shown before and after the peak.
    """
    meter = ActivityMeter(sae.config.n_latents)
    tokens, latents, values = [], [], []
    for first, x in chunks():
        entries = sae.eval().encode_sparse(x.to(sae.W_dec))
        meter.update(entries.latent, len(x))
        tokens.append((entries.row + first).to(torch.int32))
        latents.append(entries.latent.to(torch.int32))
        values.append(entries.value)
    token, latent, value = torch.cat(tokens), torch.cat(latents), torch.cat(values)
    density = meter.density()
    found = []
    for wanted in choose(density, meter.firings):
        mine = latent == wanted
        top = _strongest(token[mine].long(), value[mine], row_length, count, context)
        largest = float(value[mine].max()) if bool(mine.any()) else 0.0
        found.append(Passages(wanted, float(density[wanted]), largest, tuple(top)))
    return found


def _strongest(token: Tensor, value: Tensor, row_length: int, count: int, context: int) -> list[Passage]:
    per_row = row_length - 1
    row, position = token // per_row, token % per_row + 1
    passages: list[Passage] = []
    seen: set[int] = set()
    for index in torch.argsort(value, descending=True).tolist():
        here = int(row[index])
        if here in seen:
            continue
        seen.add(here)
        peak = int(position[index])
        first, last = max(0, peak - context), min(row_length - 1, peak + context)
        shown = torch.zeros(last - first + 1)
        inside = (row == here) & (position >= first) & (position <= last)
        shown[position[inside] - first] = value[inside].float()
        passages.append(Passage(here, first, peak, tuple(shown.tolist())))
        if len(passages) == count:
            break
    return passages
