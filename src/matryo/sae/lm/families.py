"""Where each family of models keeps what the sites name: one row of paths per family."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Family:
    """Module paths of one family; `blocks` and `embeddings` from the model's root, the others from a block.

    A block adds two terms to the residual stream: resid_post = resid_pre + attn_out + mlp_out. `attn` and `mlp` are
    the modules whose *output is exactly the term that is added*: after the post-norm where a family has one.
    """

    blocks: str
    attn: str
    mlp: str
    mid: str | None
    """Module that reads the stream between the two terms; None where both are computed from resid_pre."""
    attn_proj: str
    """Linear map that writes attention's term; its input is the heads' outputs side by side."""
    mlp_proj: str
    """Linear map that writes the MLP's term; its input is the neurons after the non-linearity."""
    embeddings: tuple[str, ...]
    layer_norm: bool = False
    """Whether every reader of the stream starts with a LayerNorm, so that its mean over d_model is never seen."""


_LLAMA = Family(
    blocks="model.layers",
    attn="self_attn",
    mlp="mlp",
    mid="post_attention_layernorm",
    attn_proj="self_attn.o_proj",
    mlp_proj="mlp.down_proj",
    embeddings=("model.embed_tokens",),
)
_GEMMA2 = replace(
    _LLAMA, attn="post_attention_layernorm", mlp="post_feedforward_layernorm", mid="pre_feedforward_layernorm"
)
_GPT2 = Family(
    blocks="transformer.h",
    attn="attn",
    mlp="mlp",
    mid="ln_2",
    attn_proj="attn.c_proj",
    mlp_proj="mlp.c_proj",
    embeddings=("transformer.wte", "transformer.wpe"),
    layer_norm=True,
)
_NEOX = Family(
    blocks="gpt_neox.layers",
    attn="attention",
    mlp="mlp",
    mid="post_attention_layernorm",
    attn_proj="attention.dense",
    mlp_proj="mlp.dense_4h_to_h",
    embeddings=("gpt_neox.embed_in",),
    layer_norm=True,
)

FAMILIES: dict[str, Family] = {
    "gpt2": _GPT2,
    "gpt_neo": replace(_GPT2, attn_proj="attn.attention.out_proj"),
    "gpt_neox": _NEOX,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gemma3": replace(_GEMMA2, blocks="model.language_model.layers", embeddings=("model.language_model.embed_tokens",)),
}
"""By the `model_type` of the Hugging Face configuration."""


def family_of(model: nn.Module) -> Family | None:
    """The family of a Hugging Face model, with paths that hold for this very object; None when unknown.

    A bare base model (`GPT2Model` instead of `GPT2LMHeadModel`) lacks the first component of the paths: it is dropped.
    """
    config = getattr(model, "config", None)
    family = FAMILIES.get(getattr(config, "model_type", ""))
    if family is None:
        return None
    if getattr(config, "use_parallel_residual", False):
        family = replace(family, mid=None)
    head, _, rest = family.blocks.partition(".")
    if not hasattr(model, head):
        embeddings = tuple(path.partition(".")[2] for path in family.embeddings)
        family = replace(family, blocks=rest, embeddings=embeddings)
    try:
        model.get_submodule(family.blocks)
    except AttributeError:
        return None
    return family
