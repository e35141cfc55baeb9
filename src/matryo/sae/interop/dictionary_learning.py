"""dictionary_learning: `ae.pt` and `config.json`, both ways, every class that has latents.

| dict_class | kind here | z |
|---|---|---|
| AutoEncoder | relu | relu((x − b_dec) W_enc + b_enc), decoder norms folded into the latents, as its own loader does |
| AutoEncoderNew | relu | relu(x W_enc + b_enc), decoder rows of any norm |
| GatedAutoEncoder | gated | as ours |
| AutoEncoderTopK | topk | the k largest of relu(pre) |
| BatchTopKSAE | batch_topk | relu(pre) above `threshold`, one number |
| MatryoshkaBatchTopKSAE | batch_topk with levels | the same, `group_sizes` the differences of the levels |
| JumpReluAutoEncoder | jumprelu | x W_enc + b_enc above `threshold`, one for each latent |
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matryo.sae.interop.foreign import Foreign, assemble, read_json, renamed, take_off_b_dec, whole_number
from matryo.sae.interop.pickled import read_tensors
from matryo.sae.nn import SAE, SAEConfig
from matryo.sae.nn.folding import fold_decoder_norms, shift_pre_acts
from matryo.sae.nn.topk_family import TopKFamily
from matryo.spine.config import from_dict
from matryo.spine.errors import unknown

LAYERS = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
SELECTING = {"k": "k", "threshold": "threshold"}
GATES = {"gate_bias": "b_enc", "mag_bias": "b_mag", "r_mag": "r_mag"}

CLASSES: dict[str, tuple[str, str, dict[str, str]]] = {
    "AutoEncoder": ("relu", "StandardTrainer", LAYERS | {"bias": "b_dec"}),
    "AutoEncoderNew": ("relu", "StandardTrainerAprilUpdate", LAYERS | {"decoder.bias": "b_dec"}),
    "GatedAutoEncoder": (
        "gated",
        "GatedSAETrainer",
        {"encoder.weight": "W_enc", "decoder.weight": "W_dec", "decoder_bias": "b_dec"} | GATES,
    ),
    "AutoEncoderTopK": ("topk", "TopKTrainer", LAYERS | {"b_dec": "b_dec"} | SELECTING),
    "BatchTopKSAE": ("batch_topk", "BatchTopKTrainer", LAYERS | {"b_dec": "b_dec"} | SELECTING),
    "MatryoshkaBatchTopKSAE": (
        "batch_topk",
        "MatryoshkaBatchTopKTrainer",
        PLAIN | SELECTING | {"group_sizes": "group_sizes"},
    ),
    "JumpReluAutoEncoder": ("jumprelu", "JumpReluTrainer", PLAIN | {"threshold": "threshold"}),
}
"""By dict_class: our kind, the trainer that makes it, and our names of its tensors."""

NOT_CENTRED = ("AutoEncoderNew", "JumpReluAutoEncoder")


def read(weights: Path) -> Foreign:
    """Read the SAE whose weights these are.

    Raises:
        ValueError: a class without latents or one we do not know, or broken files.
    """
    where = weights.with_name("config.json")
    config = read_json(where)
    trainer = config.get("trainer")
    if not isinstance(trainer, dict):
        raise ValueError(f"{where} has no object 'trainer'; expected dictionary_learning's configuration")
    name = str(trainer.get("dict_class"))
    if name == "IdentityDict":
        raise ValueError(f"{where}: IdentityDict has no latents of its own; expected a trained dictionary")
    if name not in CLASSES:
        raise unknown("dict_class", name, CLASSES)
    kind, _, names = CLASSES[name]
    state, notes = renamed(read_tensors(weights), names, weights, optional=SELECTING if "k" in names else ()), []
    values: dict[str, Any] = {"kind": kind, "d_in": len(state["W_enc"]), "n_latents": len(state["W_dec"]), "k": 1}
    stored = state.pop("k", None)
    if "k" in names:
        values["k"] = whole_number(trainer.get("k") if stored is None else stored.item(), "k", where)
        state["threshold"] = _read_threshold(name, state.get("threshold"), notes)
    if "group_sizes" in state:
        values["levels"] = tuple(itertools.accumulate(state.pop("group_sizes").tolist()))
    if name in NOT_CENTRED:
        notes.append(take_off_b_dec(state))
    if name == "AutoEncoder" and not _unit_rows(state["W_dec"]):
        fold_decoder_norms(state)
        notes.append("decoder norms were folded into the latents, as dictionary_learning's own loader does")
    sae_config = _config(config.get("matryo"), values, where)
    return Foreign(
        assemble(sae_config, state, weights),
        f"{name} of dictionary_learning",
        tuple(notes),
        _metadata(trainer, config.get("buffer")),
    )


def write(sae: SAE, folder: Path, metadata: dict[str, Any]) -> list[str]:
    """Write `ae.pt` and `config.json`, and return what was folded.

    Raises:
        ValueError: a transcoder, which the library cannot hold.
    """
    config = sae.config
    if config.transcoder:
        raise ValueError("dictionary_learning has no transcoders; expected an autoencoder: write this --to saelens")
    name, notes = _class_of(sae), []
    state = {key: value.detach().cpu().clone() for key, value in sae.state_dict().items()}
    _, trainer_class, names = CLASSES[name]
    if name in NOT_CENTRED:
        shift_pre_acts(state, -(state["b_dec"] @ state["W_enc"]))
        notes.append("b_dec W_enc was taken off b_enc: the class does not subtract b_dec from its input")
    if "k" in names:
        state["k"] = torch.tensor(config.k, dtype=torch.int32)
        # −1 is the library's value for "not set".
        state["threshold"] = torch.nan_to_num(state["threshold"].float(), nan=-1.0)
    if "group_sizes" in names:
        edges = (0, *config.lengths)
        state["group_sizes"] = torch.tensor([b - a for a, b in itertools.pairwise(edges)])
    tensors = {
        theirs: (state[ours].t() if theirs.endswith(".weight") else state[ours]).contiguous()
        for theirs, ours in names.items()
    }
    torch.save(tensors, folder / "ae.pt")
    trainer: dict[str, Any] = {"trainer_class": trainer_class, "dict_class": name}
    trainer |= {"activation_dim": config.d_in, "dict_size": config.n_latents}
    if "k" in names:
        trainer["k"] = config.k
    told = {
        "trainer": trainer
        | {"device": "cpu", "lm_name": metadata.get("model_name")}
        | _place(metadata.get("hook_name")),
        "buffer": {"d_submodule": config.d_in, "ctx_len": metadata.get("context_size")},
        "matryo": {"version": version("matryo"), "config": dataclasses.asdict(config)},
    }
    (folder / "config.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    return notes


def _class_of(sae: SAE) -> str:
    """The dict_class that computes what this SAE does at inference."""
    if sae.config.kind == "relu":
        # Its loader would scale the latents of an AutoEncoder whose rows have other norms.
        return "AutoEncoder" if _unit_rows(sae.W_dec.detach()) else "AutoEncoderNew"
    if not isinstance(sae, TopKFamily):
        return {"gated": "GatedAutoEncoder", "jumprelu": "JumpReluAutoEncoder"}[sae.config.kind]
    if not sae.by_threshold:
        return "AutoEncoderTopK"
    return "MatryoshkaBatchTopKSAE" if sae.config.nested else "BatchTopKSAE"


def _read_threshold(name: str, stored: Tensor | None, notes: list[str]) -> Tensor:
    """θ of our kinds; NaN where inference uses none or none is known."""
    if name == "AutoEncoderTopK":
        return torch.tensor(float("nan"))
    if stored is None:
        notes.append("no inference threshold is stored, as in the library's first versions")
        return torch.tensor(float("nan"))
    if float(stored) < 0:
        notes.append(
            f"the threshold is {float(stored):g}, the library's value for 'not set' (it starts at step 1,000): every "
            "positive pre-activation is kept, as the library does"
        )
    return stored.clamp_min(0)


def _unit_rows(rows: Tensor) -> bool:
    """Whether all norms are 1 by the loader's own test."""
    norms = torch.linalg.vector_norm(rows, dim=1)
    return torch.allclose(norms, torch.ones_like(norms))


def _config(ours: Any, values: dict[str, Any], where: Path) -> SAEConfig:
    """The configuration that was written beside theirs, where it fits what was found; else what was found."""
    if not isinstance(ours, dict):
        return SAEConfig(**values)
    config = from_dict(SAEConfig, ours.get("config", {}), where=str(where))
    kinds = ("topk", "batch_topk") if values["kind"] == "batch_topk" else (values["kind"],)
    if config.kind not in kinds or (config.d_in, config.n_latents) != (values["d_in"], values["n_latents"]):
        raise ValueError(
            f"{where}: 'matryo' tells of {config.name} on width {config.d_in}, the weights are another SAE's; expected "
            "the file written with them: remove 'matryo'"
        )
    return config


def _place(hook_name: Any) -> dict[str, Any]:
    """Layer and submodule of a TransformerLens hook; the input of layer N is the output of layer N − 1."""
    found = re.fullmatch(r"blocks\.(\d+)\.hook_(\w+)", str(hook_name))
    if not found:
        return {"layer": None, "submodule_name": None if hook_name is None else str(hook_name)}
    layer, point = int(found[1]), found[2]
    if point == "resid_pre" and layer:
        layer, point = layer - 1, "resid_post"
    return {"layer": layer, "submodule_name": f"{point}_layer_{layer}"}


def _metadata(trainer: dict[str, Any], buffer: Any) -> dict[str, Any]:
    """SAELens' keys, from what the trainer and its buffer tell."""
    found: dict[str, Any] = {"model_name": trainer.get("lm_name")}
    layer, submodule = trainer.get("layer"), str(trainer.get("submodule_name") or "resid_post")
    point = re.match(r"(resid_pre|resid_post|mlp_out|attn_out)", submodule)
    if isinstance(layer, int) and point:
        found["hook_name"] = f"blocks.{layer}.hook_{point[1]}"
    if isinstance(buffer, dict):
        found["context_size"] = buffer.get("ctx_len")
    return {key: value for key, value in found.items() if value is not None}
