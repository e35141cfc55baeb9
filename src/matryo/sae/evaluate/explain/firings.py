"""Where latents fire: one pass over text in order, for several autoencoders at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matryo.sae.activations import chunks
from matryo.sae.lm import LM
from matryo.sae.nn import SAE
from matryo.sae.text import TokenRows

OUTLIER_RATIO = 10.0
"""Tokens of more than this many times the chunk's median norm are sinks, and no latent counts as firing there."""


@dataclass(frozen=True, eq=False)
class Firings:
    """All firings of one autoencoder: 12 bytes each, so 0.8 GB for 2 M tokens at L0 = 32."""

    token: Int[Tensor, "firings"]
    "Numbered row by row, position 0 (BOS) not counted."
    latent: Int[Tensor, "firings"]
    value: Float[Tensor, "firings"]
    counts: Int[Tensor, "n_latents"]
    "Tokens on which each latent is active."
    rows: int
    row_length: int
    "Positions of a row, BOS included."

    def often(self, more_than: int) -> list[int]:
        """Latents active on more tokens than that."""
        return (self.counts > more_than).nonzero()[:, 0].tolist()

    def of(self, latents: list[int]) -> dict[int, Float[Tensor, "rows positions"]]:
        """Each latent's activation on every token, 0 at BOS."""
        wanted = torch.zeros(len(self.counts), dtype=torch.bool)
        wanted[latents] = True
        mine = wanted[self.latent.long()]
        token, latent, value = self.token[mine].long(), self.latent[mine], self.value[mine]
        order = torch.argsort(latent, stable=True)
        start = torch.searchsorted(latent[order].contiguous(), torch.tensor(latents, dtype=torch.int32))
        per_row = self.row_length - 1
        found = {}
        for one, first in zip(latents, start.tolist(), strict=True):
            own = order[first : first + int(self.counts[one])]
            dense = torch.zeros(self.rows, self.row_length)
            dense[token[own] // per_row, token[own] % per_row + 1] = value[own]
            found[one] = dense
        return found


@torch.no_grad()
def collect_firings(
    saes: Mapping[str, SAE], lm: LM, rows: TokenRows, site: str, advance: Callable[[int], None] = lambda tokens: None
) -> dict[str, Firings]:
    """Run the model over the rows once, and keep where every autoencoder's latents fire."""
    parts: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in saes}
    for first, found in chunks(lm, rows, [site]):
        x = found[site].float()
        norms = x.norm(dim=1)
        sink = norms > OUTLIER_RATIO * norms.median()
        for name, sae in saes.items():
            entries = sae.eval().encode_sparse(x.to(sae.W_dec))
            keep = ~sink.to(entries.latent.device)[entries.row]
            token = (entries.row + first).to(torch.int32)[keep]
            parts[name].append((token.cpu(), entries.latent[keep].to(torch.int32).cpu(), entries.value[keep].cpu()))
        advance(len(x))
    result = {}
    for name, sae in saes.items():
        token, latent, value = (torch.cat(column) for column in zip(*parts[name], strict=True))
        counts = torch.bincount(latent, minlength=sae.config.n_latents)
        result[name] = Firings(token, latent, value.float(), counts, *rows.tokens.shape)
    return result
