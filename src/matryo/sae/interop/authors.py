"""The papers' own checkpoints: `sae.pt` and `config.json` of bartbussmann/BatchTopK and matryoshka_sae.

| `sae_type` | here | what it computes |
|---|---|---|
| vanilla | relu | relu((x − b_dec) W_enc + b_enc) |
| topk | topk | the k largest of relu((x − b_dec) W_enc): **b_enc is stored, and not used** |
| batchtopk, batch-topk | batch_topk | the same by batch; above `threshold` in eval mode, where the file has one |
| global-matryoshka-topk | batch_topk with levels | the same, `group_sizes` the differences of the levels |
| jumprelu | jumprelu | x W_enc + b_enc above exp(log_threshold): b_dec is not subtracted |

With `input_unit_norm` every token is standardised first and the reconstruction scaled back: no SAE of ours does that.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matryo.sae.interop.foreign import Foreign, assemble, read_json, renamed, take_off_b_dec, whole_number
from matryo.sae.interop.pickled import read_tensors
from matryo.sae.nn import SAEConfig
from matryo.spine.errors import unknown

KINDS = {
    "vanilla": "relu",
    "topk": "topk",
    "batchtopk": "batch_topk",
    "batch-topk": "batch_topk",
    "global-matryoshka-topk": "batch_topk",
    "jumprelu": "jumprelu",
}
NAMES = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}


def read(weights: Path) -> Foreign:
    """Read the SAE whose weights these are.

    Raises:
        ValueError: tokens standardised one by one, tied weights or another activation (of early versions), a type we
            do not know, or broken files.
    """
    where = weights.with_name("config.json")
    config = read_json(where)
    told = str(config.get("sae_type"))
    if told not in KINDS:
        raise unknown("sae_type", told, KINDS)
    _refuse(config, where)
    tensors, kind, notes = read_tensors(weights), KINDS[told], []
    state = renamed(tensors, NAMES | _own(kind), weights, optional=["threshold"])
    if kind in ("topk", "batch_topk") and not _true(config.get("use_encoder_bias")):
        # As stored it is the start value 0, but not by necessity.
        state["b_enc"].zero_()
        notes.append("b_enc was set to 0: the authors' code stores it and never uses it")
    if kind == "jumprelu":
        state["threshold"] = state["threshold"].exp()
        notes.append(take_off_b_dec(state))
    if kind in ("topk", "batch_topk"):
        state["threshold"] = _threshold(kind, state, notes)
    values: dict[str, Any] = {"kind": kind, "d_in": len(state["W_enc"]), "n_latents": len(state["W_dec"])}
    # `top_k` stands in every configuration; for ReLU and JumpReLU it means nothing.
    values["k"] = whole_number(config.get("top_k"), "top_k", where) if kind in ("topk", "batch_topk") else 1
    if told == "global-matryoshka-topk":
        values["levels"] = _levels(config.get("group_sizes"), where)
    metadata = {"model_name": config.get("model_name"), "hook_name": config.get("hook_point")}
    metadata |= {"context_size": config.get("seq_len"), "dataset_path": config.get("dataset_path")}
    return Foreign(
        assemble(SAEConfig(**values), state, weights),
        f"{told} SAE of the BatchTopK and Matryoshka authors' code",
        tuple(notes),
        {key: value for key, value in metadata.items() if value is not None},
    )


def _refuse(config: dict[str, Any], where: Path) -> None:
    if _true(config.get("input_unit_norm")):
        raise ValueError(
            f"{where}: input_unit_norm is true: every token is standardised by its own mean and deviation, which no "
            "linear folding can express; expected an SAE trained with input_unit_norm false"
        )
    if _true(config.get("tied_weights")):
        raise ValueError(f"{where}: tied_weights is true; expected false: the W_dec stored is not the one used")
    if config.get("activation", "relu") != "relu":
        raise ValueError(f"{where}: activation is {config['activation']!r}; expected 'relu'")


def _own(kind: str) -> dict[str, str]:
    if kind == "jumprelu":
        return {"jumprelu.log_threshold": "threshold"}
    return {"threshold": "threshold"} if kind == "batch_topk" else {}


def _threshold(kind: str, state: dict[str, Tensor], notes: list[str]) -> Tensor:
    """θ as stored; NaN, which means none, for TopK and for the first repository's BatchTopK."""
    if kind == "topk":
        return torch.tensor(float("nan"))
    if "threshold" not in state:
        notes.append("no inference threshold is stored: the authors' first repository only ever selects by batch")
        return torch.tensor(float("nan"))
    # Their relu comes first, so that a threshold below 0 would act as 0.
    return state["threshold"].clamp_min(0)


def _levels(sizes: Any, where: Path) -> tuple[int, ...]:
    """Prefix lengths from group sizes, a list or its text."""
    try:
        sizes = json.loads(sizes) if isinstance(sizes, str) else sizes
        return tuple(itertools.accumulate(whole_number(size, "group_sizes", where) for size in sizes))
    except (TypeError, json.JSONDecodeError):
        raise ValueError(f"{where}: group_sizes is {sizes!r}; expected a list of whole numbers") from None


def _true(value: Any) -> bool:
    return value is True or str(value).lower() == "true"
