"""Autoencoders put together from latents of several, as one JumpReLU autoencoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matryo.sae.nn import SAE, JumpReLU, SAEConfig, build
from matryo.sae.nn.gated import Gated
from matryo.sae.nn.topk_family import TopKFamily

SAME = 1e-6
"""Relative difference up to which two latents count as the same one."""


@torch.no_grad()
def as_jumprelu(sae: SAE, calibration: Iterable[Float[Tensor, "_ d_in"]] = ()) -> JumpReLU:
    """The same function as one of thresholds, z_j = relu(pre_j) · 1[pre_j > θ_j], whatever the kind.

        ReLU                 θ_j = 0
        BatchTopK, levels    θ_j = θ
        JumpReLU             θ_j
        Gated                pre = e^r_mag · (x − b_dec) W_enc + b_mag,  θ_j = max(0, b_mag_j − e^r_mag_j · b_enc_j)

    Reconstructions are equal. The one exception is a TopK without threshold, whose latents depend on each other: it
    gets the θ with which `calibration` has k active latents per token in the mean, and is another function from then
    on.

    Raises:
        ValueError: a transcoder; a TopK without threshold and nothing to set one on.
    """
    if sae.config.transcoder:
        raise ValueError("a transcoder was given; expected an SAE, which reconstructs the site it reads")
    if isinstance(sae, JumpReLU):
        return sae.eval()
    state = sae.state_dict()
    W_enc, b_enc = state["W_enc"], state["b_enc"]
    threshold = b_enc.new_zeros(len(b_enc))
    if isinstance(sae, TopKFamily):
        if not sae.by_threshold:
            sae = _with_threshold(sae, calibration)
        elif not sae.calibrated:
            raise ValueError(
                f"this {sae.config.kind} SAE has no inference threshold; expected one: train it to its end"
            )
        threshold = sae.threshold.expand(len(b_enc))
    elif isinstance(sae, Gated):
        gain = state["r_mag"].exp()
        threshold = (state["b_mag"] - gain * b_enc).clamp_min(0)
        W_enc, b_enc = W_enc * gain, state["b_mag"]
    made = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": state["W_dec"], "b_dec": state["b_dec"], "threshold": threshold}
    return _assembled(replace(_plain(sae.config), k=sae.config.k), made, sae.W_dec)


@torch.no_grad()
def join(parts: Sequence[tuple[JumpReLU, Tensor]], b_dec: Float[Tensor, "d_in"]) -> JumpReLU:
    """One autoencoder of chosen latents of several, every latent active exactly where it was.

        pre_j = (x − b_own) W_enc_j + b_enc_j = (x − b_dec) W_enc_j + [b_enc_j + (b_dec − b_own) W_enc_j]

    The bracket, the new encoder bias, is computed in float64; it is b_enc itself where b_dec is the latent's own.

    Args:
        parts: autoencoders and which latents of each, by number or as a mask, in that order.
        b_dec: of the whole.

    Raises:
        ValueError: no latent is left, or widths differ.
    """
    pieces: dict[str, list[Tensor]] = {"W_enc": [], "b_enc": [], "W_dec": [], "threshold": []}
    like = parts[0][0].W_dec
    for sae, kept in parts:
        if sae.config.d_in != len(b_dec):
            raise ValueError(f"an SAE of width {sae.config.d_in} was given; expected {len(b_dec)}, that of b_dec")
        W_enc = sae.W_enc[:, kept]
        moved = (b_dec.double() - sae.b_dec.double()) @ W_enc.double()
        pieces["W_enc"].append(W_enc)
        pieces["b_enc"].append((sae.b_enc[kept].double() + moved).to(like))
        pieces["W_dec"].append(sae.W_dec[kept])
        pieces["threshold"].append(sae.threshold[kept])
    state = {name: torch.cat(found, dim=-1 if name == "W_enc" else 0) for name, found in pieces.items()}
    n_latents = len(state["W_dec"])
    if not n_latents:
        raise ValueError("0 latents were chosen; expected at least one to make an SAE of")
    k = min(max(sae.config.k for sae, _ in parts), n_latents)
    config = replace(_plain(parts[0][0].config), n_latents=n_latents, k=k)
    return _assembled(config, state | {"b_dec": b_dec}, like)


@torch.no_grad()
def same_latents(
    large: JumpReLU, small: JumpReLU, nearest: Int[Tensor, "n_large"], within: float = SAME
) -> Bool[Tensor, "n_large"]:
    """Which latents of the larger are equal to their nearest of the smaller.

    Compared are encoder columns, biases on raw input, thresholds and decoder rows.
    """
    enc, bias, threshold = _raw(large)
    enc_there, bias_there, threshold_there = (part[nearest] for part in _raw(small))
    size = torch.linalg.vector_norm(enc_there, dim=1)
    # A bias on raw input holds a product with b_dec, whose rounding is of the size of both.
    room = size * (1 + torch.linalg.vector_norm(small.b_dec.double())) + bias_there.abs()
    rows, rows_there = large.W_dec.double(), small.W_dec.double()[nearest]
    same = torch.linalg.vector_norm(enc - enc_there, dim=1) <= within * size
    same &= torch.linalg.vector_norm(rows - rows_there, dim=1) <= within * torch.linalg.vector_norm(rows_there, dim=1)
    return same & ((bias - bias_there).abs() <= within * room) & ((threshold - threshold_there).abs() <= within * room)


def _raw(sae: JumpReLU) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder columns, biases on raw input and thresholds of all latents, in float64."""
    W_enc = sae.W_enc.double()
    return W_enc.t(), sae.b_enc.double() - sae.b_dec.double() @ W_enc, sae.threshold.double()


def _with_threshold(sae: TopKFamily, calibration: Iterable[Tensor]) -> TopKFamily:
    twin = build(replace(sae.config, kind="batch_topk", levels="none", level_weights=())).to(sae.W_dec)
    assert isinstance(twin, TopKFamily)
    twin.load_state_dict(sae.state_dict())
    twin.calibrate(calibration)
    return twin


def _plain(config: SAEConfig) -> SAEConfig:
    return SAEConfig(kind="jumprelu", d_in=config.d_in, n_latents=config.n_latents, k=min(config.k, config.n_latents))


def _assembled(config: SAEConfig, state: dict[str, Tensor], like: Tensor) -> JumpReLU:
    sae = build(config).to(like)
    sae.load_state_dict(state)
    assert isinstance(sae, JumpReLU)
    return sae.eval()
