import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from matryo.sae.lm import LM, capture, load_lm
from matryo.sae.lm.pieces import byte_alphabet, printable

MakeLM = Callable[[str], LM]


@pytest.fixture
def folder(make_lm: MakeLM, tmp_path: Path) -> Path:
    """A Hugging Face folder of a small Llama."""
    lm = make_lm("llama_tied")
    lm.model.save_pretrained(tmp_path / "small")
    lm.tokenizer.save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def refusal(name: str, **options: str) -> str:
    with pytest.raises(ValueError) as caught:
        load_lm(name, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


def test_local_folders_load_ready_for_study(make_lm: MakeLM, folder: Path, tokens):
    lm = load_lm(str(folder))
    assert not lm.model.training and not any(p.requires_grad for p in lm.model.parameters())
    assert lm.model.config._attn_implementation == "sdpa"
    assert lm.name == str(folder) and lm.device.type == "cpu"
    assert torch.equal(lm.logits(tokens), make_lm("llama_tied").logits(tokens))
    assert (lm.d_model, lm.n_layers, lm.vocab_size, lm.bos_id) == (24, 3, 37, 1)
    assert load_lm(str(folder), dtype="bfloat16").model.dtype == torch.bfloat16


def test_attention_that_sdpa_cannot_compute_is_computed_otherwise(make_lm: MakeLM, tmp_path: Path, tokens):
    made = make_lm("gemma2")
    made.model.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    lm = load_lm(str(tmp_path))
    assert lm.model.config._attn_implementation == "eager"
    assert torch.equal(lm.logits(tokens), made.logits(tokens))


def test_identity_follows_the_files(folder: Path):
    first = load_lm(str(folder)).identity()
    assert first["name"] == str(folder) and first["dtype"] == "float32" and first["processing"] == []
    assert all(len(first[part]) == 64 for part in ("weights", "config", "tokenizer"))
    assert load_lm(str(folder)).identity() == first

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-4}))
    second = load_lm(str(folder)).identity()
    assert second["config"] != first["config"] and second["weights"] == first["weights"]

    model = load_lm(str(folder)).model
    next(model.parameters())[1, 2] += 1
    model.save_pretrained(folder, max_shard_size="10KB")  # another weight, and several files
    (folder / "model.safetensors").unlink()
    third = load_lm(str(folder)).identity()
    assert third["weights"] not in (None, first["weights"]) and third["tokenizer"] == first["tokenizer"]
    assert len(list(folder.glob("*.safetensors"))) > 1


def test_identity_of_a_module_follows_its_parameters(make_lm: MakeLM):
    one, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert LM.wrap(one).identity() == LM.wrap(one).identity()
    assert LM.wrap(one).identity()["weights"] != LM.wrap(other).identity()["weights"]


def test_wrap_leaves_gradients_to_their_owner():
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 2))
    lm = LM.wrap(model)
    assert not model.training and model[1].weight.requires_grad and lm.name == "Sequential"


def test_unknown_names_offer_the_nearest():
    assert "did you mean 'smollm2'" in refusal("smolm2")
    assert "cannot be reached" in refusal("no-such-owner/no-such-model")  # conftest.py sets HF_HUB_OFFLINE
    assert "owner/model" in refusal("two words")
    assert "did you mean 'float32'" in refusal("tiny", dtype="flat32")
    assert "device 'moon'" in refusal("tiny", device="moon")
    if not torch.cuda.is_available():
        assert "device 'cuda'" in refusal("tiny", device="cuda")


def test_bad_folders_are_refused(folder: Path, tmp_path: Path):
    assert "no such folder" in refusal(str(tmp_path / "nowhere"))
    assert "no config.json" in refusal(str(tmp_path))
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    (pickled / "model.safetensors").unlink()
    assert "no *.safetensors" in refusal(str(pickled))
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04would run code")
    assert "only pytorch_model.bin" in refusal(str(pickled)) and "never loaded" in refusal(str(pickled))
    truncated = tmp_path / "truncated"
    shutil.copytree(folder, truncated)
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "cannot be read" in refusal(str(truncated))
    strange = tmp_path / "strange"
    shutil.copytree(folder, strange)
    (strange / "config.json").write_text('{"model_type": "no_such_family"}')
    assert "no_such_family" in refusal(str(strange))


def test_missing_and_misshapen_weights_are_refused_not_left_random(folder: Path):
    from safetensors.torch import load_file, save_file

    whole = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in whole.items() if k != name}, folder / "model.safetensors", {"format": "pt"})
    assert name in refusal(str(folder))
    save_file(whole | {name: torch.zeros(3, 2)}, folder / "model.safetensors", {"format": "pt"})
    assert "cannot be read" in refusal(str(folder)) or name in refusal(str(folder))


def test_text_is_text(make_lm: MakeLM):
    lm = make_lm("llama")
    texts = ["some text\nand <eos> café", "", "z"]
    ids = lm.encode(texts)
    assert [lm.decode(row) for row in ids] == texts
    assert not {0, 1, 2} & set(ids[0]) and 2 in lm.encode(texts, special=True)[0]
    assert lm.encode([]) == [] and lm.encode(["z" * 5000])[0] == [28] * 5000
    pieces = lm.decode_tokens([1, *ids[0]])
    assert pieces[:6] == ["<bos>", "s", "o", "m", "e", " "] and pieces[10] == "↵"
    assert pieces[-2:] == ["\\xC3", "\\xA9"]
    assert all(piece.isprintable() for piece in lm.decode_tokens(range(37)))
    assert lm.decode_tokens([36])[0] == "<36>"  # the model embeds more than the tokenizer knows


def test_sentencepiece_tokens_are_shown_with_their_spaces():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "▁the": 1, "re": 2, "<0x0A>": 3, "<0xE2>": 4, "▁▁": 5}
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab=vocabulary, merges=[])))
    lm = LM.wrap(torch.nn.Identity(), fast)
    assert lm.decode_tokens([1, 2, 3, 4, 5, 9]) == [" the", "re", "↵", "\\xE2", "  ", "<9>"]


def test_the_byte_alphabet_is_a_bijection_and_the_usual_one():
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    assert byte_alphabet() == {letter: byte for byte, letter in bytes_to_unicode().items()}
    assert printable("tab\tzero\0 \u2028 🎉") == "tab⇥zero\\x00 \\u2028 🎉"


def test_bos_falls_back_to_what_the_model_or_tokenizer_has(make_lm: MakeLM):
    from types import SimpleNamespace as Names

    model = make_lm("llama").model
    assert LM.wrap(model, Names(bos_token_id=7, eos_token_id=9)).bos_id == 7
    assert LM.wrap(model, Names(bos_token_id=None, eos_token_id=9)).bos_id == 1
    plain = torch.nn.Identity()
    assert LM.wrap(plain, Names(bos_token_id=None, eos_token_id=9)).bos_id == 9
    with pytest.raises(ValueError, match="no BOS"):
        _ = LM.wrap(plain).bos_id


def test_the_package_imports_no_torch_until_used():
    import subprocess
    import sys

    code = "import sys, matryo.sae.lm; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


TINY = Path(__import__("matryo.sae").sae.__file__).parent / "lm" / "tiny"


@pytest.mark.skipif(not (TINY / "model.safetensors").is_file(), reason="the tiny model has not been trained yet")
def test_tiny_reads_english():
    lm = load_lm("tiny")
    assert (lm.d_model, lm.n_layers, lm.vocab_size) == (256, 4, 4096)
    size = sum(path.stat().st_size for path in TINY.iterdir())
    assert size < 10_000_000
    text = "The President of the United States spoke to the Congress about the state of the Union."
    ids = torch.tensor([[lm.bos_id, *lm.encode([text])[0]]])
    assert lm.decode(ids[0, 1:].tolist()) == text
    logits = lm.logits(ids)[:, :-1].log_softmax(-1)
    nats_per_letter = -logits.gather(-1, ids[:, 1:, None]).sum().item() / len(text)
    assert nats_per_letter < 1.2, nats_per_letter  # uniform guessing: ln 4096 at some 3.5 letters a token, 2.4
    assert capture(lm, ids, ["blocks.2.resid_post"])["blocks.2.resid_post"].isfinite().all()


def test_what_the_hub_answers_is_one_line(monkeypatch: pytest.MonkeyPatch):
    from transformers import AutoConfig

    from matryo.sae.lm import load

    def answer(*_, **__):
        raise OSError("owner/x is not a valid model identifier.\nIf this is a private repository, log in.\n\nMore.")

    monkeypatch.setattr(load, "_hub_answers", lambda: True)
    monkeypatch.setattr(AutoConfig, "from_pretrained", answer)
    message = refusal("owner/x@main")
    assert message.startswith("unknown language model 'owner/x@main'") and "smollm2, tiny" in message
    assert "not a valid model identifier" in message and "More" not in message
