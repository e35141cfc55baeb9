"""Gemma Scope's `params.npz`: JumpReLU SAEs and transcoders that do not subtract b_dec from their input.

    z = relu(x W_enc + b_enc) · 1[x W_enc + b_enc > θ_j],   x̂ = z W_dec + b_dec

The file says neither the model nor the site: the folder's name does, and whether it is a transcoder or an SAE of the
embedding. The latter were trained on activations divided by √d: 1/√d is folded into W_enc and √d into W_dec.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from matryo.sae.interop.foreign import Foreign, assemble, renamed, take_off_b_dec
from matryo.sae.nn import SAEConfig

NAMES = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}


def read(weights: Path) -> Foreign:
    """Read the SAE whose weights these are.

    Raises:
        ValueError: a scaling factor other than 1, other arrays than a JumpReLU's, or a broken file.
    """
    try:
        with weights.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            tensors = {_name(key): torch.from_numpy(arrays[key]) for key in arrays.files}
    except Exception as error:  # zip, format and dtype errors share no base class
        reason = str(error).split("\n")[0][:200]
        raise ValueError(f"{weights} cannot be read ({reason}); expected Gemma Scope's arrays: copy it again") from None
    scaling = tensors.pop("scaling_factor", None)
    if scaling is not None and not bool((scaling == 1).all()):
        raise ValueError(f"{weights} has a scaling_factor other than 1, made by fine-tuning; expected none")
    state, notes = renamed(tensors, NAMES, weights), []
    # Repository, layer, width, L0, and what the hub's cache puts between them; not the folders all of this lies in.
    # The file itself may be a link into the cache's blobs, which have no such names.
    place = [part.lower() for part in weights.parent.resolve().parts[-6:]]
    n_latents, d_out = state["W_dec"].shape
    if "embedding" in place:
        state["W_enc"], state["W_dec"] = state["W_enc"] / math.sqrt(d_out), state["W_dec"] * math.sqrt(d_out)
        notes.append(f"an SAE of the embedding: 1/√{d_out} was folded into W_enc and √{d_out} into W_dec")
    told = next((part for part in place if "transcoder" in part), None)
    transcoder = told is not None
    notes.append(
        f"taken for a transcoder because of the folder's name, {told}" if transcoder else take_off_b_dec(state)
    )
    config = SAEConfig(
        kind="jumprelu",
        d_in=len(state["W_enc"]),
        n_latents=n_latents,
        k=1,
        d_out=d_out if transcoder else None,
    )
    what = f"JumpReLU {'transcoder' if transcoder else 'SAE'} of Gemma Scope"
    return Foreign(assemble(config, state, weights), what, tuple(notes))


def _name(key: str) -> str:
    return "W_" + key[2:] if key.startswith("w_") else key
