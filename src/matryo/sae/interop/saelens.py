"""SAELens: its folders of release 6 are our own (`matryo.sae.nn.folder`); older ones are brought up to it here.

Before release 6, `cfg.json` was flat: the activation function stood in `activation_fn` or `activation_fn_str`, its k in
`activation_fn_kwargs`, and a TopK was architecture "standard".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matryo.sae.interop.foreign import Foreign, read_safetensors
from matryo.sae.nn import SAE
from matryo.sae.nn.folder import assemble_sae, load_sae, read_config

METADATA = (
    "model_name",
    "hook_name",
    "hook_head_index",
    "context_size",
    "dataset_path",
    "prepend_bos",
    "model_from_pretrained_kwargs",
)


def read(weights: Path) -> Foreign:
    """Read the SAE whose weights these are.

    Raises:
        ValueError: an architecture we do not have, tokens normalised one by one, or broken files.
    """
    folder = weights.parent
    config = read_config(folder)
    metadata = dict(config.get("metadata") or {})
    if not _is_old(config):
        what = f"{config.get('architecture')} SAE of SAELens"
        if "matryo" in metadata:
            what += ", written by matryo"
        metadata = {key: value for key, value in metadata.items() if key not in ("matryo", "sae_lens_version")}
        return Foreign(load_sae(folder), what, metadata=metadata)
    config, notes = _brought_up(config, folder), []
    tensors = read_safetensors(weights)
    scaling = tensors.get("scaling_factor")
    if scaling is not None and bool((scaling == 1).all()):
        del tensors["scaling_factor"]
        notes.append("scaling_factor, 1 for every latent, was left out")
    metadata = {key: config[key] for key in METADATA if config.get(key) is not None}
    what = f"{config['architecture']} SAE of SAELens before release 6"
    return Foreign(assemble_sae(config, tensors, folder), what, tuple(notes), metadata)


def write(sae: SAE, folder: Path, metadata: dict[str, Any]) -> list[str]:
    """Write `cfg.json` and `sae_weights.safetensors`, and return what was folded: nothing.

    Raises:
        ValueError: a kind of transcoder that SAELens does not have.
    """
    config = sae.config
    if config.transcoder and (config.kind == "gated" or (config.kind == "topk" and not config.nested)):
        raise ValueError(
            f"SAELens has no {config.kind} transcoder; expected relu, jumprelu or batch_topk, or an autoencoder"
        )
    sae.save(folder, metadata)
    return []


def _is_old(config: dict[str, Any]) -> bool:
    """Whether the keys are those of before release 6, which SAELens tells by the version's absence from `metadata`."""
    told = (config.get("metadata") or {}).get("sae_lens_version")
    return not told and any(key in config for key in ("activation_fn", "activation_fn_str", "hook_point"))


def _brought_up(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The flat configuration with the keys of release 6."""
    old = {"hook_name": config.get("hook_point"), "activation_fn": config.get("activation_fn_str") or "relu"} | config
    new = {"architecture": "standard", "normalize_activations": "none"} | old
    if new["normalize_activations"] is False:
        new["normalize_activations"] = "none"
    if old["activation_fn"] == "topk":
        new |= {"architecture": "topk", "k": (old.get("activation_fn_kwargs") or {}).get("k")}
    elif old["activation_fn"] != "relu":
        raise ValueError(f"{folder / 'cfg.json'}: activation_fn is {old['activation_fn']!r}; expected 'relu' or 'topk'")
    del new["activation_fn"]
    new.pop("activation_fn_str", None)
    return new
