"""Small random models of every family: sizes all different, weights large enough that every term matters."""

from collections.abc import Callable

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from matryo.sae.lm import LM

torch.set_num_threads(1)  # small models on a busy machine: threads cost ten times what they give

VOCAB, D_MODEL, LAYERS, POSITIONS = 37, 24, 3, 16
_GPT = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2}
_PLAIN = {
    **_GPT,
    "pad_token_id": 0,
    "hidden_size": D_MODEL,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": POSITIONS,
}
_PARTIAL = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 2 / 3}  # 4 of the 6 of a head
_GROUPED = {**_PLAIN, "num_key_value_heads": 2, "head_dim": 6}

CONFIGS = {
    "gpt2": lambda: GPT2Config(**_GPT, n_embd=D_MODEL, n_layer=LAYERS, n_head=4, n_inner=40, n_positions=POSITIONS),
    "gpt_neo": lambda: GPTNeoConfig(
        **_GPT,
        hidden_size=D_MODEL,
        num_layers=LAYERS,
        attention_types=[[["global", "local", "global"], 1]],
        num_heads=4,
        intermediate_size=40,
        max_position_embeddings=POSITIONS,
    ),
    "pythia": lambda: GPTNeoXConfig(**_PLAIN, rope_parameters=_PARTIAL),
    "neox_sequential": lambda: GPTNeoXConfig(**_PLAIN, rope_parameters=_PARTIAL, use_parallel_residual=False),
    "llama": lambda: LlamaConfig(**_GROUPED),
    "llama_tied": lambda: LlamaConfig(**_GROUPED, tie_word_embeddings=True),
    "mistral": lambda: MistralConfig(**_GROUPED),
    "qwen2": lambda: Qwen2Config(**_PLAIN, num_key_value_heads=2),
    "qwen3": lambda: Qwen3Config(**_GROUPED),
    "gemma": lambda: GemmaConfig(**_GROUPED),
    "gemma2": lambda: Gemma2Config(**_GROUPED, query_pre_attn_scalar=6),
    "gemma3": lambda: Gemma3TextConfig(**_GROUPED, query_pre_attn_scalar=6),
    "gemma3_multimodal": lambda: Gemma3Config(
        text_config={**_GROUPED, "query_pre_attn_scalar": 6},
        vision_config={
            "hidden_size": 12,
            "intermediate_size": 14,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
    ),
}


MODELS: dict[str, torch.nn.Module] = {}


def small_model(family: str) -> torch.nn.Module:
    """A random model of the family, in fp32, made once."""
    if family in MODELS:
        return MODELS[family]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    MODELS[family] = model.requires_grad_(False)
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE without merges over the letters the tests use, and three special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    special = ["<pad>", "<bos>", "<eos>"]
    vocabulary = {t: i for i, t in enumerate([*special, *"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ċ", "<", ">", "Ã", "©"])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


@pytest.fixture(params=CONFIGS)
def lm(request: pytest.FixtureRequest) -> LM:
    """A model of each family in turn."""
    return LM.wrap(small_model(request.param), tokenizer(), request.param)


@pytest.fixture
def make_lm() -> Callable[[str], LM]:
    """A model of the family named."""
    return lambda family: LM.wrap(small_model(family), tokenizer(), family)


@pytest.fixture
def tokens() -> torch.Tensor:
    """Five rows of eleven tokens, pads and end-of-text among them."""
    rows = torch.randint(0, VOCAB, (5, 11), generator=torch.Generator().manual_seed(1))
    rows[2, 4:7] = 0
    rows[3, 5] = 2
    return rows


@pytest.fixture(autouse=True)
def no_hooks_left():
    """Whatever a test does, its models end without hooks (Hugging Face's own, installed once, aside)."""
    yield
    for family, model in MODELS.items():
        for name, module in model.named_modules():
            assert not module._forward_pre_hooks, (family, name)
            for hook in module._forward_hooks.values():
                assert hook.__module__.startswith("transformers."), (family, name)
