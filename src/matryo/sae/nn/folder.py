"""SAEs on disk: SAELens-6 folders, cfg.json and sae_weights.safetensors, and nothing else.

| kind here | architecture written | tensors |
|---|---|---|
| relu | standard | W_enc, b_enc, W_dec, b_dec |
| topk without levels | topk | the same |
| topk with levels, batch_topk, jumprelu | jumprelu | the same and threshold (n_latents,) |
| gated | gated | W_enc, b_gate, b_mag, r_mag, W_dec, b_dec |

A transcoder's architecture has the suffix or name `transcoder`, and cfg.json a `d_out`; SAELens reads `transcoder` and
`jumprelu_transcoder`, and has no format for gated and topk ones, which only we read. What SAELens does not know stands
under `metadata.matryo`: the full configuration and the SHA-256 of the weights.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from matryo.sae.nn.base import SAE, build
from matryo.sae.nn.config import SAEConfig
from matryo.sae.nn.folding import fold_decoder_norms, shift_pre_acts
from matryo.sae.nn.topk_family import TopKFamily
from matryo.spine.config import from_dict
from matryo.spine.errors import unknown
from matryo.spine.fetch import file_sha256

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SAELENS_VERSION = "6.54.12"
"""The release these folders were tested with; SAELens reads the nested metadata from 6.0.0 on only."""

KIND_OF = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}


def save_sae(sae: SAE, folder: Path, metadata: dict[str, Any]) -> None:
    """Write the folder: both files under temporary names, which are then renamed, the weights first.

    Args:
        sae: the autoencoder, activation scale folded in (`sae.rescale`).
        folder: made when missing.
        metadata: SAELens' keys (model_name, hook_name, context_size, …) to put beside ours.

    Raises:
        ValueError: an SAE that infers by threshold has none yet.
    """
    write_folder(sae, folder, metadata, lambda weights: save_file(saelens_tensors(sae), weights))


def write_folder(sae: SAE, folder: Path, metadata: dict[str, Any], write: Callable[[Path], Any]) -> None:
    """`save_sae`, the file of weights written by `write`."""
    architecture = _architecture(sae)
    json.dumps(metadata)  # what JSON cannot hold is found before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    weights, cfg = folder / f"{WEIGHTS}.partial", folder / f"{CONFIG}.partial"
    write(weights)
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": sae.config.d_in,
        "d_sae": sae.config.n_latents,
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": not sae.config.transcoder,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if architecture.startswith("topk"):
        config |= {"k": sae.config.k, "rescale_acts_by_decoder_norm": False}
    if sae.config.transcoder:
        config["d_out"] = sae.config.d_out
    config["metadata"] = metadata | {
        "sae_lens_version": SAELENS_VERSION,
        "matryo": {
            "version": version("matryo"),
            "weights_sha256": file_sha256(weights),
            "config": dataclasses.asdict(sae.config),
        },
    }
    cfg.write_text(json.dumps(config, indent=1), encoding="utf-8")
    weights.replace(folder / WEIGHTS)
    cfg.replace(folder / CONFIG)


def load_sae(folder: Path) -> SAE:
    """Read a folder written here or by SAELens 6, in eval mode, with weights of at least float32.

    Raises:
        ValueError: not such a folder, an altered file, or a feature of SAELens that is not supported (named).
    """
    config = read_config(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{folder / WEIGHTS} cannot be read ({error}); expected SAE weights: copy them again"
        ) from None
    ours = (config.get("metadata") or {}).get("matryo")
    if ours and file_sha256(folder / WEIGHTS) != ours.get("weights_sha256"):
        raise ValueError(
            f"{folder / WEIGHTS} is not the file {CONFIG} was written with: copy the folder again, or, if another "
            f"program changed the weights on purpose, remove metadata.matryo from {CONFIG}"
        )
    return assemble_sae(config, tensors, folder)


def assemble_sae(config: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> SAE:
    """The autoencoder of a SAELens-6 configuration and its tensors; `folder` is named in errors."""
    ours = (config.get("metadata") or {}).get("matryo")
    try:
        sae = build(from_dict(SAEConfig, ours.get("config", {}) if ours else _foreign_config(config)))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from None
    try:
        sae.to(torch.promote_types(tensors["W_dec"].dtype, torch.float32))
        sae.load_state_dict(_from_saelens(sae, tensors, config))
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder / WEIGHTS} does not fit {CONFIG}: {reason}") from None
    return sae.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's cfg.json."""
    if not (folder / CONFIG).is_file():
        pickles = [path.name for path in folder.glob("*") if path.suffix in (".pt", ".pth", ".bin", ".pkl")]
        if pickles:
            raise ValueError(
                f"{folder / pickles[0]} may be a pickle, which is never loaded here; expected {CONFIG} and {WEIGHTS}: "
                "matryo sae convert makes them from other libraries' SAEs"
            )
        raise FileNotFoundError(f"{folder} holds no {CONFIG}; expected an SAE folder of matryo or SAELens 6")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} is not valid JSON ({error}); expected an SAE's configuration") from None
    if not isinstance(config, dict) or not isinstance(config.get("metadata") or {}, dict):
        raise ValueError(
            f"{folder / CONFIG} is not an SAE's configuration; expected an object with an object 'metadata'"
        )
    return config


def _architecture(sae: SAE) -> str:
    kind = sae.config.kind
    if isinstance(sae, TopKFamily) and sae.by_threshold:
        if not sae.calibrated:
            raise ValueError(
                f"this {kind} SAE has no inference threshold yet; expected one: call sae.calibrate(batches)"
            )
        kind = "jumprelu"
    name = {"relu": "standard"}.get(kind, kind)
    if not sae.config.transcoder:
        return name
    return "transcoder" if name == "standard" else f"{name}_transcoder"


def saelens_tensors(sae: SAE) -> dict[str, Tensor]:
    """The tensors of a folder, those of a slice of latents where the autoencoder is one."""
    architecture = _architecture(sae)
    state = {name: value.detach().cpu().contiguous() for name, value in sae.state_dict().items()}
    if sae.config.kind == "gated":
        state["b_gate"] = state.pop("b_enc")
    if isinstance(sae, TopKFamily):
        threshold = state.pop("threshold")
        if architecture.startswith("jumprelu"):
            state["threshold"] = threshold.expand(len(sae.W_dec)).contiguous()
    return state


def _from_saelens(sae: SAE, tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    state = {name: value.to(sae.W_dec.dtype) for name, value in tensors.items()}
    if sae.config.kind == "gated":
        state["b_enc"] = state.pop("b_gate")
    if isinstance(sae, TopKFamily):
        if str(config.get("architecture")).startswith("topk"):
            state.setdefault("threshold", torch.tensor(float("nan")))
        else:
            state["threshold"] = state["threshold"][0]
    if not config.get("apply_b_dec_to_input", True) and not sae.config.transcoder:
        # (x − b_dec) W + b with b = b_enc + b_dec W is x W + b_enc.
        shift_pre_acts(state, state["b_dec"] @ state["W_enc"])
    if config.get("rescale_acts_by_decoder_norm"):
        # A TopK that ranks pre · ‖W_dec row‖ ranks pre once the norms are folded in.
        fold_decoder_norms(state)
    return state


_CURE = {
    "layer_norm": "every token is standardised by itself, which cannot be folded",
    "constant_norm_rescale": "every token is scaled by itself, which cannot be folded",
    "": "fold it with SAELens first",
}


def _foreign_config(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of our configuration for an SAE that SAELens wrote."""
    architecture = str(config.get("architecture"))
    base = architecture.removesuffix("transcoder").removesuffix("_") or "standard"
    if base not in KIND_OF:
        raise unknown("architecture", architecture, KIND_OF)
    since_6 = (config.get("metadata") or {}).get("sae_lens_version")
    if not since_6 and config.get("activation_fn", config.get("activation_fn_str", "relu")) != "relu":
        raise ValueError(
            "activation_fn is of before SAELens 6, which would be taken for a ReLU; expected SAELens 6's form: "
            "matryo sae convert reads the old one"
        )
    for key, plain in (("normalize_activations", ("none", None)), ("reshape_activations", ("none", None))):
        if config.get(key) not in plain:
            raise ValueError(f"{key} is {config[key]!r}; expected 'none': {_CURE.get(str(config[key]), _CURE[''])}")
    values = {"kind": KIND_OF[base], "d_in": config.get("d_in"), "n_latents": config.get("d_sae")}
    values["k"] = config.get("k") if base == "topk" else 1
    if "transcoder" in architecture:
        values["d_out"] = config.get("d_out") or 0
    return values
