"""What holds at every site of every family."""

import pytest
import torch

from matryo.sae.lm import LM, capture, resolve_site, splice

KINDS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "attn_z", "mlp_post")
LAST = 2


def sites(lm: LM, layers=range(LAST + 1)) -> list[str]:
    kinds = [kind for kind in KINDS if kind != "resid_mid" or lm.name != "pythia"]
    return [f"blocks.{layer}.{kind}" for layer in layers for kind in kinds]


def hidden_states(lm: LM, tokens):
    # every token may be seen: Hugging Face would otherwise mask nothing either, but warn about pads
    mask = torch.ones_like(tokens)
    out = lm.model(tokens, attention_mask=mask, output_hidden_states=True, use_cache=False)
    return out.hidden_states


def final_norm(lm: LM):
    base = lm.model.base_model
    base = getattr(base, "language_model", base)
    names = ("ln_f", "final_layer_norm", "norm")
    return next(getattr(base, name) for name in names if hasattr(base, name))


def test_the_model_says_what_it_is(lm: LM):
    assert (lm.n_layers, lm.d_model, lm.vocab_size, lm.bos_id) == (3, 24, 37, 1)
    assert lm.unembed().shape == (24, 37)


def test_residual_stream_equals_output_hidden_states(lm: LM, tokens):
    expected = hidden_states(lm, tokens)
    got = capture(lm, tokens, sites(lm))
    for layer in range(LAST + 1):
        assert torch.equal(got[f"blocks.{layer}.resid_pre"], expected[layer])
        if layer < LAST:
            assert torch.equal(got[f"blocks.{layer}.resid_post"], expected[layer + 1])
    # the last of Hugging Face's hidden states has passed the final norm
    assert torch.equal(final_norm(lm)(got[f"blocks.{LAST}.resid_post"]), expected[-1])


def test_a_block_adds_its_two_terms(lm: LM, tokens):
    for layer in range(LAST + 1):
        got = capture(lm, tokens, sites(lm, [layer]))
        pre, post, attn, mlp = (got[f"blocks.{layer}.{k}"] for k in ("resid_pre", "resid_post", "attn_out", "mlp_out"))
        assert min(attn.abs().max(), mlp.abs().max()) > 0.1
        torch.testing.assert_close(post, pre + attn + mlp, atol=1e-5, rtol=1e-5)
        mid = got.get(f"blocks.{layer}.resid_mid")
        if mid is not None:
            torch.testing.assert_close(mid, pre + attn, atol=1e-5, rtol=1e-5)


def test_the_last_maps_turn_their_inputs_into_the_terms(lm: LM, tokens):
    for kind, term, width in (("attn_z", "attn_out", 24), ("mlp_post", "mlp_out", 40)):
        name = f"blocks.1.{kind}"
        value = capture(lm, tokens, [name])[name]
        assert value.shape == (5, 11, width)
        out = lm.model.get_submodule(resolve_site(lm, name).module_path)(value)
        if lm.name.startswith(("gemma2", "gemma3")):  # their terms are normalised once more
            block = resolve_site(lm, "blocks.1.resid_post").module_path
            norm = "post_attention_layernorm" if kind == "attn_z" else "post_feedforward_layernorm"
            out = lm.model.get_submodule(f"{block}.{norm}")(out)
        torch.testing.assert_close(out, capture(lm, tokens, [f"blocks.1.{term}"])[f"blocks.1.{term}"])


def test_own_value_back_leaves_logits_bit_equal(lm: LM, tokens):
    clean = lm.logits(tokens)
    with splice(lm, {site: lambda x: x for site in sites(lm)}):
        assert torch.equal(lm.logits(tokens), clean)
    with splice(lm, {site: torch.clone for site in sites(lm)}):
        assert torch.equal(lm.logits(tokens), clean)
    assert torch.equal(lm.logits(tokens), clean)


def test_every_site_is_read_by_the_rest_of_the_model(lm: LM, tokens):
    clean = lm.logits(tokens)
    for site in sites(lm, [1]):
        with splice(lm, {site: torch.zeros_like}):
            assert (lm.logits(tokens) - clean).abs().max() > 1e-2, site
        with splice(lm, {site: torch.zeros_like}, error_term=True):
            torch.testing.assert_close(lm.logits(tokens), clean, atol=1e-4, rtol=1e-4)


def test_without_its_terms_a_block_passes_the_stream_on(lm: LM, tokens):
    names = ["blocks.1.resid_pre", "blocks.1.resid_post"]
    with splice(lm, {"blocks.1.attn_out": torch.zeros_like, "blocks.1.mlp_out": torch.zeros_like}):
        got = capture(lm, tokens, names)
    assert torch.equal(got[names[0]], got[names[1]])


def test_resid_mid_is_replaced_on_both_of_its_ways(lm: LM, tokens):
    if lm.name == "pythia":
        with pytest.raises(ValueError, match="nothing lies between them"):
            resolve_site(lm, "blocks.1.resid_mid")
        return
    value = torch.randn(24, generator=torch.Generator().manual_seed(3))
    names = ["blocks.1.resid_mid", "blocks.1.mlp_out", "blocks.1.resid_post"]
    with splice(lm, {"blocks.1.resid_mid": lambda x: x * 0 + value}):
        mid, mlp, post = capture(lm, tokens, names).values()
    torch.testing.assert_close(mid, value.expand_as(mid))
    # every token's stream is now the same, so the MLP's term is too, and the block gives their sum
    torch.testing.assert_close(mlp, mlp[:1, :1].expand_as(mlp))
    torch.testing.assert_close(post, value + mlp, atol=1e-5, rtol=1e-5)


def test_attention_is_causal_over_the_whole_row(lm: LM, tokens):
    site = f"blocks.{LAST}.resid_post"
    before = capture(lm, tokens, [site])[site]
    changed = tokens.clone()
    changed[:, 6] = (changed[:, 6] + 5) % 37
    after = capture(lm, changed, [site])[site]
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert ((before - after)[:, 6:].norm(dim=-1) > 1e-4).all()  # pads and end-of-text hide nothing


def test_captured_values_inside_a_splice_are_the_spliced_ones(lm: LM, tokens):
    for site in sites(lm, [1]):
        with splice(lm, {site: torch.zeros_like}):
            assert not capture(lm, tokens, [site])[site].any(), site
