"""Reconstruction on held-out activations, streaming and independent of how they are split into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from matryo.sae.evaluate.outcome import Outcome, Table
from matryo.sae.evaluate.subjects import Subjects
from matryo.sae.kernels import Entries
from matryo.sae.metrics import ActivityMeter, CountMeter, FidelityMeter, FvuMeter, nearest_cosines
from matryo.sae.nn import SAE

DENSITY_EDGES = tuple(-7 + i / 4 for i in range(29))
"""Edges of the density histogram, log₁₀ of the share of tokens: four bins a decade, from 10⁻⁷ to 1."""


@dataclass(frozen=True)
class Level:
    """One prefix of the dictionary, read alone; the last one is the whole."""

    fvu: float
    "Σ‖x − x̂‖² / Σ‖x − x̄‖²."
    l0: float
    "Mean active latents per token within the prefix."
    dead: float
    "Share of the prefix's latents active on none of these tokens."
    cosine: float
    "Mean cosine of x and x̂."
    relative_bias: float
    "E‖x̂‖² / E[x · x̂]; below 1, reconstructions are too short."
    decoder_cosine: float | None
    "Mean over the prefix's latents of the largest cosine of their decoder row with another one's; None for one latent."


@dataclass(frozen=True)
class Reconstruction:
    """One autoencoder on held-out tokens."""

    tokens: int
    fvu: float
    "Σ‖x − x̂‖² / Σ‖x − x̄‖²."
    l0: float
    "Mean active latents per token."
    l1: float
    "Mean Σ_j z_j."
    dead: float
    "Share of latents active on none of these tokens."
    mse: float
    "Mean ‖x − x̂‖² / d_in."
    norm: float
    "Mean ‖x‖."
    norm_hat: float
    "Mean ‖x̂‖."
    norm_ratio: float
    "Mean ‖x̂‖ / ‖x‖."
    encoder_cosine: float | None
    "As a level's decoder_cosine, of the encoder's columns."
    l0_counts: tuple[int, ...]
    "Tokens with 0, 1, 2, … active latents."
    l0_quantiles: dict[str, int]
    "Active latents that 5, 25, 50, 75 and 95 % of the tokens do not exceed."
    density_counts: tuple[int, ...]
    "Latents by log₁₀ of the share of tokens on which they are active, within DENSITY_EDGES; dead ones are in no bin."
    over_one_percent: float
    "Share of latents active on more than 1 % of the tokens."
    over_ten_percent: float
    firings_over_one_percent: float
    "Share of all firings that those latents have."
    firings_over_ten_percent: float
    levels: dict[int, Level]
    "Every Matryoshka prefix; without levels the whole dictionary alone."

    @property
    def whole(self) -> Level:
        """The full dictionary."""
        return self.levels[max(self.levels)]

    @property
    def level_fvu(self) -> dict[int, float]:
        """FVU of every prefix."""
        return {level: found.fvu for level, found in self.levels.items()}

    @property
    def level_l0(self) -> dict[int, float]:
        """Mean active latents per token within every prefix."""
        return {level: found.l0 for level, found in self.levels.items()}


class _Meters:
    """What is added up of one autoencoder."""

    def __init__(self, sae: SAE) -> None:
        self.sae = sae
        self.fvu = {level: FvuMeter() for level in sae.config.lengths}
        self.fidelity = {level: FidelityMeter() for level in sae.config.lengths}
        self.activity, self.counts, self.l1 = ActivityMeter(sae.config.n_latents), CountMeter(), 0.0

    def update(self, x: Tensor) -> None:
        x = x.to(self.sae.W_dec)
        entries: Entries = self.sae.eval().encode_sparse(x)
        self.activity.update(entries.latent, len(x))
        self.counts.update(entries.row_start.diff())
        self.l1 += float(entries.value.double().sum())
        for level in self.fvu:
            x_hat = self.sae.decode_sparse(entries, level)
            self.fvu[level].update(x, x_hat)
            self.fidelity[level].update(x, x_hat)

    def result(self) -> Reconstruction:
        sae, tokens, whole = self.sae, self.activity.tokens, self.fidelity[self.sae.config.n_latents]
        density = self.activity.density()
        alive = density[density > 0]
        bins = torch.histogram(alive.log10().clamp(DENSITY_EDGES[0], 0.0), torch.tensor(DENSITY_EDGES).double())
        levels = {level: self._level(level) for level in self.fvu}
        return Reconstruction(
            tokens=tokens,
            fvu=levels[sae.config.n_latents].fvu,
            l0=self.activity.l0(),
            l1=self.l1 / tokens,
            dead=self.activity.dead_fraction(),
            mse=whole.error / (tokens * sae.W_dec.shape[1]),
            norm=whole.mean("norm"),
            norm_hat=whole.mean("norm_hat"),
            norm_ratio=whole.mean("ratio"),
            encoder_cosine=_overlap(sae.W_enc.t()),
            l0_counts=tuple(self.counts.counts.tolist()),
            l0_quantiles={f"{100 * q:g} %": self.counts.quantile(q) for q in (0.05, 0.25, 0.5, 0.75, 0.95)},
            density_counts=tuple(bins.hist.long().tolist()),
            over_one_percent=float((density > 0.01).double().mean()),
            over_ten_percent=float((density > 0.1).double().mean()),
            firings_over_one_percent=_share(density, 0.01),
            firings_over_ten_percent=_share(density, 0.1),
            levels=levels,
        )

    def _level(self, level: int) -> Level:
        firings, fidelity = self.activity.firings[:level], self.fidelity[level]
        return Level(
            fvu=self.fvu[level].result(),
            l0=float(firings.sum()) / self.activity.tokens,
            dead=float((firings == 0).double().mean()),
            cosine=fidelity.mean("cosine"),
            relative_bias=fidelity.relative_bias(),
            decoder_cosine=_overlap(self.sae.W_dec[:level]),
        )


@torch.no_grad()
def measure_reconstruction(
    saes: Mapping[str, SAE], batches: Iterable[Tensor], advance: Callable[[int], None] = lambda tokens: None
) -> dict[str, Reconstruction]:
    """Measure every autoencoder on the same batches of raw activations, read once.

    Dead latents are counted over these tokens: a small sample calls a rare latent dead that is not.

    Raises:
        ValueError: there are no batches, or an autoencoder has another width.
    """
    meters, tokens = {name: _Meters(sae) for name, sae in saes.items()}, 0
    for x in batches:
        tokens += len(x)
        for meter in meters.values():
            meter.update(x)
        advance(len(x))
    if not tokens:
        raise ValueError("there are 0 held-out tokens; expected some: raise heldout_fraction")
    return {name: meter.result() for name, meter in meters.items()}


def _share(density: Tensor, least: float) -> float:
    total = float(density.sum())
    return float(density[density > least].sum()) / total if total else 0.0


def _overlap(rows: Tensor) -> float | None:
    return float(nearest_cosines(rows.detach()).double().mean()) if len(rows) > 1 else None


SCORES = ("fvu", "l0", "l1", "dead", "mse", "norm", "norm_hat", "norm_ratio", "encoder_cosine")
DENSE = ("over_one_percent", "over_ten_percent", "firings_over_one_percent", "firings_over_ten_percent")


def reconstruction_task(subjects: Subjects, config: None, advance: Callable[[int], None]) -> Outcome:
    """The task of `matryo sae evaluate`."""
    found = measure_reconstruction(subjects.saes, subjects.heldout(), advance)
    scores = {}
    for name, one in found.items():
        scores[name] = {key: getattr(one, key) for key in (*SCORES, *DENSE)}
        scores[name] |= {key: getattr(one.whole, key) for key in ("cosine", "relative_bias", "decoder_cosine")}
        scores[name] |= {f"l0_q{key.removesuffix(' %')}": value for key, value in one.l0_quantiles.items()}
    tokens = next(iter(found.values())).tokens
    return Outcome(
        scores=scores,
        tables={"levels": _levels(found)} if any(len(one.levels) > 1 for one in found.values()) else {},
        constants={"tokens": tokens, "density_edges_log10": list(DENSITY_EDGES), "outlier_ratio": 10.0},
        data=subjects.identity(),
        notes=(f"{subjects.label}: reconstruction on {tokens:,} held-out tokens.",),
        extra={
            "l0_counts": {name: list(one.l0_counts) for name, one in found.items()},
            "density_counts": {name: list(one.density_counts) for name, one in found.items()},
        },
    )


def _levels(found: Mapping[str, Reconstruction]) -> Table:
    headers = (
        ("SAE", ""),
        ("level", "latents of the prefix, read alone"),
        ("FVU", "Σ‖x − x̂‖² / Σ‖x − x̄‖²"),
        ("L0", "mean active latents of the prefix per token"),
        ("dead", "share of the prefix's latents active on no held-out token"),
        ("cosine", "mean cosine of x and x̂"),
        ("bias", "E‖x̂‖² / E[x · x̂]; below 1, reconstructions are too short"),
        ("decoder cosine", "mean over latents of the largest cosine with another latent's decoder row"),
    )
    rows = [
        (name, level, one.fvu, one.l0, one.dead, one.cosine, one.relative_bias, one.decoder_cosine)
        for name, reconstruction in found.items()
        for level, one in reconstruction.levels.items()
    ]
    return Table(headers, tuple(rows))
