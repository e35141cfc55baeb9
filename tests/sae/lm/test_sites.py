import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from matryo.sae.lm import LM, Site, capture, resolve_site, splice

MakeLM = Callable[[str], LM]


def refusal(lm: LM, site: str) -> str:
    with pytest.raises(ValueError) as caught:
        resolve_site(lm, site)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("hook_resid_pre", "resid_pre"),
        ("hook_resid_mid", "resid_mid"),
        ("hook_resid_post", "resid_post"),
        ("hook_attn_out", "attn_out"),
        ("hook_mlp_out", "mlp_out"),
        ("attn.hook_z", "attn_z"),
        ("mlp.hook_post", "mlp_post"),
    ],
)
def test_transformer_lens_names_are_aliases(make_lm: MakeLM, theirs: str, ours: str):
    lm = make_lm("llama")
    site = resolve_site(lm, f"blocks.2.{theirs}")
    assert site == resolve_site(lm, f"blocks.2.{ours}")
    assert site.name == f"blocks.2.{ours}"


def test_module_sites_name_any_submodule(make_lm: MakeLM, tokens):
    lm = make_lm("gpt2")
    assert resolve_site(lm, "module:transformer.h.1.mlp") == Site(
        "module:transformer.h.1.mlp", "transformer.h.1.mlp", "output"
    )
    same = [
        ("blocks.1.mlp_out", "module:transformer.h.1.mlp"),
        ("blocks.1.mlp_out", "module:transformer.h.1.mlp@output"),
        ("blocks.1.attn_z", "module:transformer.h.1.attn.c_proj@input"),
        ("blocks.1.resid_pre", "module:transformer.h.1@input"),
        ("blocks.2.resid_post", "module:transformer.ln_f@input"),
    ]
    for name, module in same:
        got = capture(lm, tokens, [name, module])
        assert torch.equal(got[name], got[module])


def test_modules_of_any_module(make_lm: MakeLM):
    plain = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 2))
    lm = LM.wrap(plain)
    x = torch.randn(7, 3)
    got = capture(lm, x, ["module:0", "module:1@input", "module:1", "module:2"])
    # what the in-place operation did afterwards does not reach back
    assert torch.equal(got["module:0"], plain[0](x)) and (got["module:0"] < 0).any()
    assert torch.equal(got["module:1@input"], got["module:0"])
    assert torch.equal(got["module:1"], plain[0](x).relu())
    assert torch.equal(got["module:2"], lm.logits(x))
    with splice(lm, {"module:1": torch.zeros_like}):
        assert torch.equal(lm.logits(x), plain[2].bias.expand(7, 2))
    assert "Sequential" in refusal(lm, "blocks.0.resid_pre") and "module:PATH" in refusal(lm, "blocks.0.resid_pre")
    with pytest.raises(ValueError, match="no tokenizer"):
        lm.encode(["a"])
    with pytest.raises(ValueError, match="Sequential without hidden_size"):
        _ = lm.d_model


def test_a_base_model_has_the_same_sites(make_lm: MakeLM, tokens):
    for family in ("gpt2", "pythia", "gemma3"):
        whole = make_lm(family)
        base = LM.wrap(whole.model.base_model, name="base")
        names = ["blocks.1.resid_mid" if family != "pythia" else "blocks.1.attn_out", "blocks.2.resid_post"]
        ours, theirs = capture(base, tokens, names), capture(whole, tokens, names)
        assert all(torch.equal(ours[name], theirs[name]) for name in names)


def test_unknown_sites_offer_the_nearest(make_lm: MakeLM):
    lm = make_lm("gpt2")
    assert "did you mean 'blocks.1.resid_post'" in refusal(lm, "blocks.1.resid_pst")
    assert "did you mean 'blocks.7.hook_resid_pre'" in refusal(lm, "block.7.hook_resid_pre")
    assert "did you mean 'module:transformer.h.1.mlp'" in refusal(lm, "transformer.h.1.mlp")
    assert "did you mean 'transformer.h.1.mlp'" in refusal(lm, "module:transformer.h.1.mpl")
    assert "after @ comes input or output, not 'out'" in refusal(lm, "module:transformer.h.1@out")
    refusal(lm, "module:")
    refusal(lm, "")


def test_layers_beyond_the_model_are_refused(make_lm: MakeLM):
    assert refusal(make_lm("gpt2"), "blocks.3.attn_out") == (
        "site 'blocks.3.attn_out': gpt2 has 3 layers, blocks.0 to blocks.2"
    )
    refusal(make_lm("gpt2"), "blocks.-1.attn_out")


def test_unknown_families_are_told_to_name_the_module():
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(vocab_size=37, hidden_size=24, n_layer=2, n_head=4))
    lm = LM.wrap(model, name="bloom-x")
    message = refusal(lm, "blocks.0.resid_pre")
    assert re.search(r"bloom-x is a bloom, .*gpt_neox.*module:PATH", message)
    tokens = torch.randint(0, 37, (2, 5))
    assert capture(lm, tokens, ["module:transformer.h.0"])["module:transformer.h.0"].shape == (2, 5, 24)
