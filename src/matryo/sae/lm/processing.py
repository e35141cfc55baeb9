"""TransformerLens' weight processing, for SAEs that were trained on a processed model.

TransformerLens can rewrite a model into one with the same logits and other activations. An SAE trained on such a model
says so in its metadata (SAELens: `model_from_pretrained_kwargs`), and is meaningless on the model as published. What
each option does to the values at our sites:

| option | residual stream, attn_out, mlp_out | attn_z | mlp_post | logits |
|---|---|---|---|---|
| center_writing_weights | mean over d_model removed (LayerNorm models; others: nothing) | same | same | same |
| fold_ln | same | same | same | same |
| fold_value_biases | same | b_V removed | same | same |
| refactor_factored_attn_matrices | same | rotated | same | same |
| center_unembed | same | same | same | shifted by a constant per token |

fold_ln moves the norms' weights into the maps that read them; only what lies between norm and map changes. The value
bias reaches attention's output unchanged whatever the pattern, because a row of the pattern sums to 1.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from matryo.sae.lm.families import Family, family_of
from matryo.spine.errors import unknown

if TYPE_CHECKING:
    from matryo.sae.lm.model import LM

_CENTER = "center_writing_weights"
_CHANGES_ATTN_Z = ("fold_value_biases", "refactor_factored_attn_matrices")
_NO_EFFECT = (
    "fold_ln",
    "center_unembed",
    "fold_value_biases",
    "refactor_factored_attn_matrices",
    # where and how precisely it ran, not what it computed
    "attn_implementation", "cache_dir", "default_padding_side", "default_prepend_bos", "device", "device_map", "dtype",
    "local_files_only", "low_cpu_mem_usage", "move_to_device", "n_devices", "token", "torch_dtype", "trust_remote_code",
)  # fmt: skip
_OTHER_WEIGHTS = ("revision", "checkpoint_value", "checkpoint_index")


def check_processing(lm: LM, metadata: Mapping[str, Any]) -> bool:
    """Whether an SAE with this metadata needs a model with centred writing weights.

    Args:
        lm: the model as loaded.
        metadata: an SAE's metadata: a mapping with `model_from_pretrained_kwargs` (SAELens), or that mapping itself.
            `hook_name`, where given, says which site the answer is for.

    An absent or empty mapping means no processing: that is how SAELens runs such SAEs.

    Raises:
        ValueError: the SAE was trained on something this model cannot be turned into; the message says why.
    """
    asked = _asked(metadata)
    site = str(metadata.get("hook_name") or "")
    for option, value in asked.items():
        if option == _CENTER or value is None or value is False:
            continue
        if option in _CHANGES_ATTN_Z and site.endswith(("attn.hook_z", "attn_z")):
            raise ValueError(
                f"this SAE reads {site} of a model with {option}={value}, which changes that very value and is not "
                "available here: use an SAE of attn_out, or one trained without it"
            )
        if option in _OTHER_WEIGHTS:
            if option == "revision" and value == lm.revision:
                continue
            raise ValueError(
                f"this SAE was trained on {option}={value} of its model, and {lm.name} is not known to be that one: "
                "load it with load_lm('NAME@REVISION') and drop the option from the metadata"
            )
        if option not in _NO_EFFECT:
            options = (_CENTER, *_NO_EFFECT, *_OTHER_WEIGHTS)
            raise unknown("weight processing", option, options, "drop it from the metadata if it changes no activation")
    if not asked.get(_CENTER):
        return False
    family = family_of(lm.model)
    if family is None:
        raise ValueError(
            f"this SAE needs {_CENTER}, and matryo does not know which weights of {lm.name} write to the residual "
            "stream: use a model of a known family"
        )
    return family.layer_norm  # as in TransformerLens, RMSNorm models stay as they are: for them the mean is seen


def processed(lm: LM, metadata: Mapping[str, Any]) -> LM:
    """The model an SAE was trained on, by the weight processing its metadata asks for (table in the module's help).

    Centring subtracts, from everything a LayerNorm model writes to its residual stream, the mean over d_model:

        W ← W − mean_d(W),  b ← b − mean_d(b)   for embeddings and the last maps of attention and MLP

    so that every token's residual has mean 0 over d_model; LayerNorm subtracts that mean anyway, so the logits stay. In
    fp32 this is done in fp64 and rounded once.

    Returns:
        `lm` itself when nothing changes; else a copy that shares every other tensor with it and names the processing
        in `identity()`.

    Raises:
        ValueError: see `check_processing`.
    """
    if not check_processing(lm, metadata) or _CENTER in lm.processing:
        return lm
    family = family_of(lm.model)
    assert family is not None
    written = {id(p) for _, p, _ in _writers(lm.model, family)}
    shared = {id(p): p for p in lm.model.parameters() if id(p) not in written}
    model = copy.deepcopy(lm.model, shared)
    _untie(model)
    with torch.no_grad():
        for _, parameter, dim in _writers(model, family):
            exact = parameter.double()
            parameter.copy_(exact - exact.mean(dim, keepdim=True))
    return replace(lm, model=model, processing=(*lm.processing, _CENTER))


def _asked(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    if "model_from_pretrained_kwargs" in metadata:
        return metadata["model_from_pretrained_kwargs"] or {}
    return {k: v for k, v in metadata.items() if k == _CENTER or k in _NO_EFFECT[:4] or k in _OTHER_WEIGHTS}


def _writers(model: nn.Module, family: Family) -> Iterator[tuple[str, nn.Parameter, int]]:
    """Parameters that write to the residual stream, with the dimension that is d_model."""
    for path in family.embeddings:
        yield path, model.get_submodule(path).get_parameter("weight"), -1
    for index, block in enumerate(model.get_submodule(family.blocks).children()):
        for path in (family.attn_proj, family.mlp_proj):
            module = block.get_submodule(path)
            # nn.Linear stores (out, in), GPT-2's Conv1D (in, out)
            yield f"{index}.{path}", module.get_parameter("weight"), 0 if isinstance(module, nn.Linear) else -1
            if getattr(module, "bias", None) is not None:
                yield f"{index}.{path}", module.get_parameter("bias"), 0


def _untie(model: nn.Module) -> None:
    """Give the output embedding its own weights: those of the input embedding are about to change."""
    if not hasattr(model, "get_output_embeddings"):
        return
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()  # type: ignore[operator]
    if head is None or head.weight is not embedding.weight:
        return
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    model.config = copy.deepcopy(model.config)
    model.config.tie_word_embeddings = False  # type: ignore[union-attr]
