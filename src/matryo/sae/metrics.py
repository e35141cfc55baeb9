"""What is measured, defined once: pure functions of tensors, and meters that add up batches.

Meters accumulate in float64, so that the result does not depend on how tokens were split into batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor


def fvu(x: Float[Tensor, "tokens d"], x_hat: Float[Tensor, "tokens d"]) -> float:
    """Fraction of variance unexplained, Σ‖x − x̂‖² / Σ‖x − x̄‖² over all tokens; 0 is perfect, 1 is the mean."""
    meter = FvuMeter()
    meter.update(x, x_hat)
    return meter.result()


def ce_recovered(ce_clean: float, ce_spliced: float, ce_ablated: float) -> float:
    """(CE_ablated − CE_spliced) / (CE_ablated − CE_clean): 1 when splicing costs nothing, 0 when it equals ablating.

    nan when ablating costs nothing.
    """
    room = ce_ablated - ce_clean
    return (ce_ablated - ce_spliced) / room if room else float("nan")


@dataclass
class FvuMeter:
    """Adds up Σ‖x − x̂‖² and Σ‖x − x̄‖² over batches.

    The variance is taken about a shift (the first batch's mean) and corrected at the end, so that a large mean costs no
    digits.
    """

    tokens: int = 0
    error: float = 0.0
    spread: float = 0.0
    shift: Tensor | None = None
    total: Tensor | None = None

    def update(self, x: Float[Tensor, "tokens d"], x_hat: Float[Tensor, "tokens d"]) -> None:
        """Add one batch of activations and their reconstructions."""
        if not len(x):
            return
        x, x_hat = x.detach().double(), x_hat.detach().double()
        if self.shift is None or self.total is None:
            self.shift, self.total = x.mean(0), torch.zeros_like(x[0])
        moved = x - self.shift
        self.tokens += len(x)
        self.error += float((x - x_hat).square().sum())
        self.spread += float(moved.square().sum())
        self.total += moved.sum(0)

    def result(self) -> float:
        """FVU over all tokens seen; nan when they do not vary."""
        if self.total is None:
            return float("nan")
        variance = self.spread - float(self.total.square().sum()) / self.tokens
        return self.error / variance if variance > 0 else float("nan")


@dataclass
class ActivityMeter:
    """Counts how often each latent is active, and how many are active per token."""

    n_latents: int
    tokens: int = 0
    firings: Int[Tensor, "n_latents"] = field(init=False)

    def __post_init__(self) -> None:
        self.firings = torch.zeros(self.n_latents, dtype=torch.long)

    def update(self, active_latents: Int[Tensor, "entries"], tokens: int) -> None:
        """Add one batch: the latent of every active entry, and the number of tokens."""
        self.firings += torch.bincount(active_latents.cpu(), minlength=self.n_latents)
        self.tokens += tokens

    def l0(self) -> float:
        """Mean number of active latents per token."""
        return float(self.firings.sum()) / max(self.tokens, 1)

    def dead_fraction(self) -> float:
        """Fraction of latents that were active on no token seen."""
        return float((self.firings == 0).double().mean())

    def density(self) -> Float[Tensor, "n_latents"]:
        """For every latent, the fraction of tokens on which it is active."""
        return self.firings.double() / max(self.tokens, 1)


@dataclass
class CountMeter:
    """How many tokens have how many active latents: the distribution whose mean is L0."""

    counts: Int[Tensor, "values"] = field(default_factory=lambda: torch.zeros(1, dtype=torch.long))
    "Tokens with 0, 1, 2, … active latents."

    def update(self, active: Int[Tensor, "tokens"]) -> None:
        """Add one batch: every token's number of active latents."""
        found = torch.bincount(active.cpu(), minlength=len(self.counts))
        found[: len(self.counts)] += self.counts
        self.counts = found

    def quantile(self, share: float) -> int:
        """The smallest number that at least this share of the tokens does not exceed; 0 when there are no tokens."""
        reached = self.counts.cumsum(0) >= share * self.counts.sum()
        return int(reached.nonzero()[0])


@dataclass
class FidelityMeter:
    """How reconstructions point and how long they are, over batches of tokens.

    A token whose activation or reconstruction is 0 counts with a cosine of 0, and with a ratio of norms of 0 when it is
    the activation that is 0.
    """

    tokens: int = 0
    cosine: float = 0.0
    ratio: float = 0.0
    norm: float = 0.0
    norm_hat: float = 0.0
    along: float = 0.0
    square: float = 0.0
    error: float = 0.0

    def update(self, x: Float[Tensor, "tokens d"], x_hat: Float[Tensor, "tokens d"]) -> None:
        """Add one batch of activations and their reconstructions."""
        x, x_hat = x.detach().double(), x_hat.detach().double()
        norm, norm_hat = torch.linalg.vector_norm(x, dim=1), torch.linalg.vector_norm(x_hat, dim=1)
        along = torch.linalg.vecdot(x, x_hat)
        both = norm * norm_hat
        self.tokens += len(x)
        self.cosine += float(torch.where(both > 0, along / both, 0.0).sum())
        self.ratio += float(torch.where(norm > 0, norm_hat / norm, 0.0).sum())
        self.norm += float(norm.sum())
        self.norm_hat += float(norm_hat.sum())
        self.along += float(along.sum())
        self.square += float(norm_hat.square().sum())
        self.error += float((x - x_hat).square().sum())

    def relative_bias(self) -> float:
        """E‖x̂‖² / E[x · x̂]: below 1 reconstructions are too short, by the factor that would fit best; nan for x̂ = 0."""
        return self.square / self.along if self.along else float("nan")

    def mean(self, name: str) -> float:
        """A sum per token; nan when there are none."""
        return getattr(self, name) / self.tokens if self.tokens else float("nan")


def nearest_cosines(rows: Float[Tensor, "n d"], chunk: int = 1024) -> Float[Tensor, "n"]:
    """For every row, the largest cosine with another row, max_{j≠i} cos(w_i, w_j); a row of 0 has cosine 0 with all.

    Raises:
        ValueError: there are fewer than two rows.
    """
    if len(rows) < 2:
        raise ValueError(f"there are {len(rows)} rows; expected at least two to compare")
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    unit = torch.where(norms > 0, rows / norms, 0.0)
    found = []
    for start in range(0, len(unit), chunk):
        cosines = unit[start : start + chunk] @ unit.t()
        here = torch.arange(len(cosines), device=cosines.device)
        cosines[here, here + start] = -float("inf")
        found.append(cosines.amax(1))
    return torch.cat(found)


@dataclass
class MeanMeter:
    """A mean of per-token numbers, such as cross-entropy in nats/token."""

    count: int = 0
    total: float = 0.0

    def update(self, values: Float[Tensor, "tokens"]) -> None:
        """Add one batch of numbers."""
        self.count += values.numel()
        self.total += float(values.detach().double().sum())

    def result(self) -> float:
        """The mean; nan when nothing was added."""
        return self.total / self.count if self.count else float("nan")
