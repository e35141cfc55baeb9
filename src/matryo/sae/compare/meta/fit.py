"""Decoder rows as data, and the meta-SAE trained on them by the ordinary trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from matryo.sae.compare.meta.config import MetaConfig
from matryo.sae.nn import SAE, build
from matryo.sae.train import train
from matryo.spine.seeding import torch_generator


@torch.no_grad()
def decoder_directions(sae: SAE) -> Float[Tensor, "n_latents d"]:
    """Decoder rows at unit norm: what a latent writes, whatever the units of its activations.

    A row of norm 0, as some libraries leave for pruned latents, stays 0; it has no direction and is left out
    everywhere.

    Raises:
        ValueError: a row is NaN or infinite, or all are 0.
    """
    rows = sae.W_dec.detach().float()
    if not bool(torch.isfinite(rows).all()):
        bad = int((~torch.isfinite(rows)).any(1).nonzero()[0])
        raise ValueError(f"decoder row {bad} is NaN or infinite; expected finite weights: load the SAE again")
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if not bool(norms.any()):
        raise ValueError("all decoder rows are 0; expected a trained SAE")
    return rows / norms.clamp_min(torch.finfo(rows.dtype).tiny)


def with_direction(directions: Float[Tensor, "n_latents d"]) -> Float[Tensor, "rows d"]:
    """The rows that have a direction."""
    return directions[directions.any(1)]


class RowBatches:
    """Batches of rows: shuffled anew for every pass, or drawn with replacement."""

    def __init__(self, rows: Float[Tensor, "rows d"], batch: int, replacement: bool = False, seed: int = 0) -> None:
        self.rows, self.batch, self.replacement, self.seed = rows, batch, replacement, seed
        self._pass = 0

    def __iter__(self) -> Iterator[Tensor]:
        """One pass: every row once, the last incomplete batch too; with replacement as many batches."""
        generator = torch_generator(self.seed, "meta", self._pass)
        self._pass += 1
        n = len(self.rows)
        if self.replacement:
            for _ in range(max(1, n // self.batch)):
                yield self._at(torch.randint(n, (self.batch,), generator=generator))
            return
        for index in torch.randperm(n, generator=generator).split(self.batch):
            yield self._at(index)

    def _at(self, index: Tensor) -> Tensor:
        return self.rows[index.to(self.rows.device)]


def fresh_meta(config: MetaConfig, rows: Float[Tensor, "rows d"]) -> SAE:
    """An untrained meta-SAE for these rows, on their device.

    Its first weights come from a stream of their own: with the SAE's seed alone meta-latent m would start where the
    SAE's latent m started, whose decoder row is still near.
    """
    sae = build(config.sae_config(len(rows), rows.shape[1]))
    generator = torch_generator(config.meta_seed, "meta-SAE")
    with torch.no_grad():
        vectors = torch.randn(sae.W_dec.shape, generator=generator)
        sae.W_dec.copy_(vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True))
        sae.W_enc.copy_(sae.W_dec.t())
    return sae.to(rows.device)


def fit_meta(
    directions: Float[Tensor, "n_latents d"],
    config: MetaConfig | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> SAE:
    """Train a meta-SAE: an SAE whose data are the unit decoder rows of another, one sample per latent.

        w_i ≈ ŵ_i = b + Σ_m a_im v_m,    a_i = σ((w_i − b) W_enc + b_enc),

    with ‖w_i‖ = 1, v_m the rows of the meta-SAE's W_dec and b its b_dec. Inference thresholds are calibrated on the
    rows themselves, which are all there are: mean L0 over latents is then k exactly.

    Args:
        directions: what `decoder_directions` gives, of one SAE or of several put together.
        config: sizes and training.
        on_step: told (steps done, the trainer's numbers).

    Returns:
        The meta-SAE, in eval mode, taking unit rows.

    Raises:
        ValueError: it has as many meta-latents as there are rows.

    Reference: Leask et al., "Sparse Autoencoders Do Not Find Canonical Units of Analysis" (2025).
    """
    config, rows = config or MetaConfig(), with_direction(directions)
    sae = fresh_meta(config, rows)
    batches = RowBatches(rows, config.rows_per_step(len(rows)), config.replacement, config.meta_seed)
    train({"meta": sae}, batches, config.train_config(len(rows)), calibration=[rows], on_step=on_step)
    return sae
