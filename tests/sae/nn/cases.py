"""The family every contract is checked on: kinds × levels × (autoencoder, transcoder). All sizes differ."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from matryo.sae.nn import KINDS, SAE, SAEConfig, build

D_IN, D_OUT, N_LATENTS, BATCH, K = 7, 6, 43, 19, 5

LEVELS = {
    "none": {},
    "nested": {"levels": "nested"},
    "sampled": {"levels": "sampled", "sampled_levels": 4},
    "tuple": {"levels": (5, 17, N_LATENTS), "level_weights": (1.0, 2.0, 0.5)},
}


@dataclass(frozen=True)
class Case:
    kind: str
    levels: str = "none"
    transcoder: bool = False

    def __str__(self) -> str:
        return f"{self.kind}-{self.levels}-{'transcoder' if self.transcoder else 'sae'}"

    @property
    def config(self) -> SAEConfig:
        return SAEConfig(
            kind=self.kind,
            d_in=D_IN,
            n_latents=N_LATENTS,
            k=K,
            d_out=D_OUT if self.transcoder else None,
            l1=0.7,
            l0_weight=1.3,
            aux_k=None if self.levels == "none" else 4,
            **LEVELS[self.levels],
        )

    def sae(self, dtype: torch.dtype = torch.float64) -> SAE:
        """An autoencoder with every parameter away from its initial value, in training mode, not calibrated."""
        sae = build(self.config).to(dtype)
        generator = torch.Generator().manual_seed(11)

        def normal(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

        with torch.no_grad():
            for name, value in sae.named_parameters():
                if name == "threshold":
                    value.copy_(0.2 + 0.6 * torch.rand(value.shape, generator=generator, dtype=torch.float64))
                else:
                    value.add_(0.3 * normal(value))
        return sae

    def data(self, rows: int = BATCH, dtype: torch.dtype = torch.float64, seed: int = 5) -> tuple[Tensor, Tensor]:
        """(x, target); the target is x itself for an autoencoder."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, D_IN, generator=generator, dtype=torch.float64).to(dtype)
        target = torch.randn(rows, D_OUT, generator=generator, dtype=torch.float64).to(dtype)
        return x, target if self.transcoder else x

    def fitted(self, dtype: torch.dtype = torch.float64) -> SAE:
        """The same in eval mode, its rows normalised and its threshold calibrated."""
        sae = self.sae(dtype)
        sae.normalise_rows()
        sae.calibrate([self.data(53, dtype, seed=8)[0]])
        return sae.eval()


CASES = [Case(kind, levels, transcoder) for kind in KINDS for levels in LEVELS for transcoder in (False, True)]
SOME = [Case(kind, levels, levels == "sampled") for kind in KINDS for levels in ("nested", "sampled")]
PLAIN = [Case(kind) for kind in KINDS]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
some_cases = pytest.mark.parametrize("case", SOME, ids=str)
each_kind = pytest.mark.parametrize("case", PLAIN, ids=str)


LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Relative distance that is rounding, by number format."""


def generator() -> torch.Generator:
    """Draws the levels: a new one for ours and for the reference."""
    return torch.Generator().manual_seed(3)


def dead_latents() -> Tensor:
    dead = torch.zeros(N_LATENTS, dtype=torch.bool)
    dead[[2, 3, 11, 20, 31, 40]] = True
    return dead


def distance(ours: Tensor, reference: Tensor) -> float:
    """Relative L2 distance; 0 when both are 0."""
    assert ours.shape == reference.shape
    gap, size = float((ours.detach() - reference.detach()).norm()), float(reference.detach().norm())
    return gap / size if size else gap


def parameters(sae: SAE) -> dict[str, Tensor]:
    """Detached copies of all parameters, as leaves."""
    return {name: value.detach().clone().requires_grad_() for name, value in sae.named_parameters()}
