import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from matryo.sae.lm import LM, capture, processed

MakeLM = Callable[[str], LM]
CENTRED = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
STREAM = [f"blocks.{layer}.{kind}" for layer in range(3) for kind in ("resid_pre", "resid_post", "attn_out", "mlp_out")]


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "pythia", "neox_sequential"])
def test_centred_models_write_nothing_along_the_mean_and_say_the_same(make_lm: MakeLM, tokens, family: str):
    lm = make_lm(family)
    before, weights = lm.logits(tokens), lm.identity()["weights"]
    centred = processed(lm, CENTRED)
    values = capture(centred, tokens, STREAM)
    for name, plain in capture(lm, tokens, STREAM).items():
        assert plain.mean(-1).abs().max() > 0.01
        assert values[name].mean(-1).abs().max() < 1e-5
        torch.testing.assert_close(values[name], plain - plain.mean(-1, keepdim=True), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(centred.logits(tokens), before, atol=1e-4, rtol=1e-4)
    # the model that was given is the one it was
    assert torch.equal(lm.logits(tokens), before) and lm.identity()["weights"] == weights
    assert centred.identity()["processing"] == ["center_writing_weights"]
    assert lm.identity()["processing"] == []
    assert processed(centred, CENTRED) is centred


def test_what_is_not_written_is_shared(make_lm: MakeLM):
    lm = make_lm("pythia")
    ours = dict(processed(lm, CENTRED).model.named_parameters())
    kept = {name for name, p in lm.model.named_parameters() if p is ours[name]}
    assert {n for n in ours if "dense." in n or "dense_4h" in n or "embed_in" in n} == set(ours) - kept and len(
        kept
    ) > 20


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_rms_norm_sees_the_mean_so_nothing_is_centred(make_lm: MakeLM, family: str):
    lm = make_lm(family)
    assert processed(lm, CENTRED) is lm


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"model_from_pretrained_kwargs": None},
        {"model_from_pretrained_kwargs": {}},
        {"model_from_pretrained_kwargs": {"center_writing_weights": False}},
        {"model_from_pretrained_kwargs": {"fold_ln": True, "center_unembed": True, "dtype": "float16", "n_devices": 2}},
        {"model_from_pretrained_kwargs": {"fold_value_biases": True}, "hook_name": "blocks.1.hook_attn_out"},
        {"model_from_pretrained_kwargs": {"revision": None}},
        {"model_name": "gpt2-small", "hook_name": "blocks.1.hook_resid_pre", "context_size": 128},
    ],
)
def test_processing_that_leaves_the_sites_alone_is_nothing_to_do(make_lm: MakeLM, metadata):
    lm = make_lm("gpt2")
    assert processed(lm, metadata) is lm


def test_the_mapping_itself_is_understood_too(make_lm: MakeLM):
    assert processed(make_lm("gpt2"), {"center_writing_weights": True, "dtype": "float32"}).processing


@pytest.mark.parametrize(
    ("options", "hook", "words"),
    [
        ({"fold_value_biases": True}, "blocks.1.attn.hook_z", "changes that very value"),
        ({"refactor_factored_attn_matrices": True}, "blocks.1.attn.hook_z", "changes that very value"),
        ({"checkpoint_value": 1000}, "blocks.1.hook_resid_pre", "checkpoint_value=1000.*load_lm"),
        ({"revision": "step3"}, "blocks.1.hook_resid_pre", "revision=step3"),
        ({"center_writing_weight": True}, "blocks.1.hook_resid_pre", "did you mean 'center_writing_weights'"),
    ],
)
def test_what_cannot_be_served_is_refused(make_lm: MakeLM, options, hook, words):
    with pytest.raises(ValueError, match=words) as caught:
        processed(make_lm("gpt2"), {"model_from_pretrained_kwargs": options, "hook_name": hook})
    assert "\n" not in str(caught.value)


def test_models_of_unknown_writing_are_refused():
    with pytest.raises(ValueError, match="does not know which weights of Linear"):
        processed(LM.wrap(torch.nn.Linear(2, 2)), CENTRED)


THEIRS = """
import json, sys, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained import weight_conversions
folder, options, names = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
torch.set_num_threads(1)
results = {}
for family in ("gpt2", "pythia"):
    model = AutoModelForCausalLM.from_pretrained(f"{folder}/{family}")
    config = dict(n_layers=3, d_model=24, n_heads=4, d_head=6, d_mlp=40, n_ctx=16, d_vocab=37, eps=1e-5, device="cpu")
    if family == "gpt2":
        config |= dict(act_fn="gelu_new")
    else:
        config |= dict(act_fn="gelu", positional_embedding_type="rotary", rotary_dim=1, parallel_attn_mlp=True)
        config["rotary_dim"] = int(6 * model.config.rope_parameters["partial_rotary_factor"])
        config |= dict(rotary_adjacent_pairs=False, rotary_base=10000)
    config = HookedTransformerConfig(normalization_type="LN", **config)
    theirs = HookedTransformer(config)
    convert = {"gpt2": "convert_gpt2_weights", "pythia": "convert_neox_weights"}[family]
    state = getattr(weight_conversions, convert)(model, config)
    theirs.load_and_process_state_dict(state, **options)
    tokens = torch.arange(33).view(3, 11) * 7 % 37
    with torch.no_grad():
        logits, cache = theirs.run_with_cache(tokens)
    results[f"{family} logits"] = logits
    results |= {f"{family} {n}": cache[n].flatten(2).clone() for n in names if n in cache}
save_file(results, f"{folder}/theirs.safetensors")
"""
NAMES = [
    f"blocks.{layer}.{name}"
    for layer in range(3)
    for name in (
        "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "mlp.hook_post"
    )
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(find_spec("transformer_lens") is None, reason="transformer_lens is not installed")
def test_values_equal_those_of_transformer_lens(make_lm: MakeLM, tmp_path: Path):
    """The real library, in a process of its own: the same names, GPT-2 and Pythia, its default processing."""
    from safetensors.torch import load_file

    options = {"fold_ln": True, "center_writing_weights": True, "fold_value_biases": True, "center_unembed": False}
    for family in ("gpt2", "pythia"):
        make_lm(family).model.save_pretrained(tmp_path / family)
    command = [sys.executable, "-c", THEIRS, str(tmp_path), json.dumps(options), json.dumps(NAMES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = load_file(tmp_path / "theirs.safetensors")
    tokens = torch.arange(33).view(3, 11) * 7 % 37
    for family in ("gpt2", "pythia"):
        lm = processed(make_lm(family), {"model_from_pretrained_kwargs": options})
        names = [name for name in NAMES if f"{family} {name}" in theirs]
        assert len(names) == (18 if family == "gpt2" else 15)  # Pythia has no resid_mid
        for name, ours in capture(lm, tokens, names).items():
            torch.testing.assert_close(ours, theirs[f"{family} {name}"], atol=1e-4, rtol=1e-4, msg=f"{family} {name}")
        torch.testing.assert_close(lm.logits(tokens), theirs[f"{family} logits"], atol=1e-4, rtol=1e-4)
