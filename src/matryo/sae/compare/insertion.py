"""The insertion test: what adding one latent of another autoencoder does to the error, for all latents at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from matryo.sae.kernels import Entries, decode
from matryo.sae.metrics import FvuMeter
from matryo.sae.nn import SAE


@dataclass(frozen=True)
class Insertion:
    """What each latent of a larger SAE, added alone, does to a smaller one; MSE is per token and dimension."""

    tokens: int
    delta_mse: Float[Tensor, "n_large"]
    "MSE with the latent added, less MSE without."
    standard_error: Float[Tensor, "n_large"]
    "Of delta_mse, as if tokens were independent."
    firings: Float[Tensor, "n_large"]
    "Tokens on which each latent of the larger is active."
    firings_small: Float[Tensor, "n_small"]
    mse_small: float
    mse_large: float
    fvu_small: float
    fvu_large: float
    l0_small: float
    l0_large: float


@torch.no_grad()
def measure_insertions(
    saes: Mapping[str, SAE],
    pairs: Sequence[tuple[str, str]],
    batches: Iterable[Float[Tensor, "_ d_in"]],
    b_dec: str = "small",
    advance: Callable[[int], None] = lambda tokens: None,
) -> dict[tuple[str, str], Insertion]:
    """The insertion test of all latents of every pair's larger SAE, in one pass over the tokens.

    With the smaller's latents z⁰ and residual r = x − z⁰ W_dec⁰ − b_dec⁰, adding latent j of the larger subtracts z_j
    w_j from r, w_j its decoder row; summed over the tokens t on which j is active (T tokens, d dimensions)

        ΔMSE_j = 1/(T d) Σ_t [ ‖r_t − z_tj w_j‖² − ‖r_t‖² ] = 1/(T d) Σ_t z_tj (z_tj ‖w_j‖² − 2 r_t·w_j).

    Each SAE encodes a batch once, and r_t·w_j is computed at active entries only. Reference: Leask et al., "Sparse
    Autoencoders Do Not Find Canonical Units of Analysis" (2025), who keep the smaller's b_dec.

    Args:
        saes: by name, in units of the activations.
        pairs: (smaller, larger) by name; same-size SAEs are a control.
        batches: activations.
        b_dec: whose b_dec stands in r: small or large.
        advance: told the number of tokens done.

    Raises:
        ValueError: there are no tokens.
    """
    seen = {name: _Seen(sae) for name, sae in saes.items() if any(name in pair for pair in pairs)}
    meters = {pair: _Meter(saes[pair[1]]) for pair in pairs}
    for x in batches:
        for one in seen.values():
            one.look(x)
        for (small, large), meter in meters.items():
            residual = seen[small].residual
            if b_dec == "large":
                residual = residual + (saes[small].b_dec - saes[large].b_dec)
            meter.update(seen[large].entries, residual)
        advance(len(x))
    if not all(one.fvu.tokens for one in seen.values()):
        raise ValueError("there are 0 tokens to measure on; expected some: harvest with a larger heldout fraction")
    return {(small, large): meter.result(seen[small], seen[large]) for (small, large), meter in meters.items()}


@torch.no_grad()
def dots_at(
    rows: Float[Tensor, "batch d"], entries: Entries, W_dec: Float[Tensor, "n_latents d"]
) -> Float[Tensor, "entries"]:
    """rows[r] · W_dec[j] at every entry (r, j): the gradient of Σ_r rows[r] · x̂_r in the entry's value."""
    value = torch.zeros_like(entries.value).requires_grad_()
    with torch.enable_grad():
        x_hat = decode(value, entries, W_dec.detach(), torch.zeros_like(W_dec[0]))
        return torch.autograd.grad(x_hat, value, rows)[0]


@dataclass
class _Seen:
    """One SAE over all batches, and the last of them."""

    sae: SAE
    fvu: FvuMeter = field(default_factory=FvuMeter)
    firings: Tensor = field(init=False)
    entries: Entries = field(init=False)
    residual: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.firings = torch.zeros(self.sae.config.n_latents, dtype=torch.float64)

    def look(self, x: Tensor) -> None:
        x = x.to(self.sae.W_dec)
        self.entries = self.sae.eval().encode_sparse(x)
        x_hat = self.sae.decode_sparse(self.entries)
        self.residual = x - x_hat
        self.fvu.update(x, x_hat)
        self.firings += torch.bincount(self.entries.latent, minlength=len(self.firings)).cpu()

    @property
    def mse(self) -> float:
        return self.fvu.error / (self.fvu.tokens * self.sae.config.d_in)

    @property
    def l0(self) -> float:
        return float(self.firings.sum()) / self.fvu.tokens


class _Meter:
    """Adds up ΔMSE of one pair."""

    def __init__(self, large: SAE) -> None:
        n = large.config.n_latents
        self.W_dec = large.W_dec.detach()
        self.squares = self.W_dec.double().square().sum(1)
        self.total, self.square = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)

    def update(self, entries: Entries, residual: Tensor) -> None:
        z, dots = entries.value.double(), dots_at(residual, entries, self.W_dec).double()
        delta = (z * (z * self.squares[entries.latent] - 2 * dots)).cpu()
        latent = entries.latent.cpu()
        self.total += torch.bincount(latent, delta, minlength=len(self.total))
        self.square += torch.bincount(latent, delta.square(), minlength=len(self.total))

    def result(self, small: _Seen, large: _Seen) -> Insertion:
        tokens, d = large.fvu.tokens, self.W_dec.shape[1]
        mean = self.total / tokens
        variance = (self.square / tokens - mean.square()).clamp_min(0)
        return Insertion(
            tokens=tokens,
            delta_mse=mean / d,
            standard_error=(variance / tokens).sqrt() / d,
            firings=large.firings.clone(),
            firings_small=small.firings.clone(),
            mse_small=small.mse,
            mse_large=large.mse,
            fvu_small=small.fvu.result(),
            fvu_large=large.fvu.result(),
            l0_small=small.l0,
            l0_large=large.l0,
        )
