"""Parameters rewritten: another scale of activations, fewer latents, the same function in another form."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from matryo.sae.nn.base import SAE


def shift_pre_acts(state: dict[str, Tensor], shift: Float[Tensor, "n_latents"]) -> None:
    """Add to the biases in `state`, in place, what (x − b_dec) W_enc should give more."""
    state["b_enc"].add_(shift)
    if "b_mag" in state:
        state["b_mag"].add_(shift * state["r_mag"].exp())


def fold_decoder_norms(state: dict[str, Tensor]) -> None:
    """Move the norm n_j of every decoder row into its latent: z_j becomes z_j · n_j."""
    norms = torch.linalg.vector_norm(state["W_dec"], dim=1).clamp_min(1e-8)
    state["W_enc"], state["b_enc"] = state["W_enc"] * norms, state["b_enc"] * norms
    state["W_dec"] = state["W_dec"] / norms[:, None]


def fold_scale(sae: SAE, scale_in: float, scale_out: float) -> None:
    """In place: sae(x) becomes what sae(x · scale_in) / scale_out was; decoder rows keep their norms."""
    state = sae.state_dict()
    if scale_in != scale_out and not sae.config.transcoder:
        # b_dec, in the units of the output, is subtracted from the input: the encoder's bias makes up for it.
        shift_pre_acts(state, (scale_in / scale_out - 1) * (sae.b_dec @ sae.W_enc))
    state["W_enc"].mul_(scale_in / scale_out)
    for name, power in {"b_enc": 1, "b_dec": 1, **sae._own_tensors()}.items():
        state[name].div_(scale_out**power)


def first_latents(sae: SAE, level: int) -> SAE:
    """A new autoencoder of the first `level` latents."""
    from matryo.sae.nn.base import build

    config = sae.config
    if not 1 <= level <= config.n_latents:
        raise ValueError(f"level is {level}; expected 1 to {config.n_latents} (levels: {config.lengths})")
    if level < config.n_latents:
        levels = (*(m for m in config.lengths if m < level), level) if config.nested else "none"
        config = replace(config, n_latents=level, k=min(config.k, level), levels=levels, level_weights=())
    state = sae.state_dict()
    for name in ("b_enc", *sae._own_tensors()):
        state[name] = state[name][:level] if state[name].dim() else state[name]
    state["W_enc"], state["W_dec"] = state["W_enc"][:, :level], state["W_dec"][:level]
    part = build(config).to(sae.W_dec)
    part.load_state_dict(state)
    return part.train(sae.training)
