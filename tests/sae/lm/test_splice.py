from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from matryo.sae.lm import LM, capture, splice

MakeLM = Callable[[str], LM]
SITE = "blocks.1.resid_post"


class Lossy(nn.Module):
    """An autoencoder of rank 5, in its own number type."""

    def __init__(self, dtype=torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.enc = nn.Parameter(torch.randn(24, 5, generator=generator, dtype=dtype))
        self.dec = nn.Parameter(torch.randn(5, 24, generator=generator, dtype=dtype))
        self.latents: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == self.enc.dtype
        self.latents.append(x @ self.enc)
        return self.latents[-1] @ self.dec


def test_the_value_becomes_the_autoencoders(make_lm: MakeLM, tokens):
    lm, sae = make_lm("gpt2"), Lossy()
    x = capture(lm, tokens, [SITE])[SITE]
    with splice(lm, {SITE: sae}):
        got = capture(lm, tokens, [SITE, "blocks.2.resid_pre"])
        spliced = lm.logits(tokens)
    assert torch.equal(got[SITE], sae(x.double()).float())
    assert torch.equal(got["blocks.2.resid_pre"], got[SITE])
    with torch.no_grad():
        by_hand = lm.model.lm_head(lm.model.transformer.ln_f(lm.model.transformer.h[2](sae(x.double()).float())))
    torch.testing.assert_close(spliced, by_hand, atol=1e-5, rtol=1e-5)


def test_after_a_block_is_before_the_next(make_lm: MakeLM, tokens):
    for family in ("gpt2", "pythia", "gemma2"):
        lm, sae = make_lm(family), Lossy()
        results = []
        for site in ("blocks.1.resid_post", "blocks.2.resid_pre", "blocks.2.hook_resid_pre"):
            with splice(lm, {site: sae}):
                results.append(lm.logits(tokens))
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_error_term_keeps_the_logits_and_lets_gradients_through_the_autoencoder(make_lm: MakeLM, tokens):
    lm, sae = make_lm("llama"), Lossy()
    clean = lm.logits(tokens)
    with splice(lm, {SITE: sae}, error_term=True):
        torch.testing.assert_close(lm.logits(tokens), clean, atol=1e-4, rtol=1e-4)
        lm.forward(tokens).square().sum().backward()
    with splice(lm, {SITE: sae}):
        assert (lm.logits(tokens) - clean).abs().max() > 0.1
    assert sae.enc.grad is not None and sae.dec.grad is not None and sae.dec.grad.norm() > 0

    # the gradient is that of the downstream model at the clean point, through the decoder: check one direction
    def loss(dec: Tensor) -> Tensor:
        x = capture(lm, tokens, [SITE])[SITE].double()
        shift = x @ sae.enc @ (dec - sae.dec)
        with splice(lm, {SITE: lambda value: (value.double() + shift).float()}):
            return lm.logits(tokens).double().square().sum()

    step = 1e-3 * torch.randn_like(sae.dec)
    slope = (loss((sae.dec + step).detach()) - loss((sae.dec - step).detach())) / 2
    torch.testing.assert_close(slope, (sae.dec.grad * step).sum(), rtol=0.02, atol=1e-3)


def test_logits_record_no_gradients(make_lm: MakeLM, tokens):
    lm = make_lm("llama")
    with splice(lm, {SITE: Lossy()}):
        assert not lm.logits(tokens).requires_grad
        assert lm.forward(tokens).requires_grad


def test_where_chooses_the_tokens(make_lm: MakeLM, tokens):
    lm, sae = make_lm("pythia"), Lossy()
    where = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(8)) < 0.4
    x = capture(lm, tokens, [SITE])[SITE]
    with splice(lm, {SITE: sae}, where=where):
        got = capture(lm, tokens, [SITE], pass_tokens=11)[SITE]  # not split: where speaks of the whole batch
    assert torch.equal(got[~where], x[~where])
    assert torch.equal(got[where], sae(x.double()).float()[where])
    clean = lm.logits(tokens)
    with splice(lm, {SITE: sae}, where=torch.zeros_like(where)):
        assert torch.equal(lm.logits(tokens), clean)
    with splice(lm, {SITE: sae}, where=torch.ones_like(where)):
        everywhere = lm.logits(tokens)
    with splice(lm, {SITE: sae}):
        assert torch.equal(lm.logits(tokens), everywhere)


def test_where_of_another_shape_is_refused(make_lm: MakeLM, tokens):
    lm = make_lm("pythia")
    for where in (torch.ones(5, 10, dtype=torch.bool), torch.ones(5, 11), torch.ones(4, 11, dtype=torch.bool)):
        with (
            splice(lm, {SITE: Lossy()}, where=where),
            pytest.raises(ValueError, match=r"expected torch.bool of shape \(5, 11\)"),
        ):
            lm.logits(tokens)


def test_results_of_another_shape_are_refused(make_lm: MakeLM, tokens):
    lm = make_lm("gpt2")
    for wrong, got in ((lambda x: x[..., :-1], r"\(5, 11, 23\)"), (lambda x: (x, x), "tuple")):
        with (
            splice(lm, {SITE: wrong}),
            pytest.raises(ValueError, match=rf"'{SITE}': the replacement gave {got}.*\(5, 11, 24\)"),
        ):
            lm.logits(tokens)


def test_unknown_and_repeated_sites_are_refused_before_anything_is_spliced(make_lm: MakeLM, tokens):
    lm = make_lm("gpt2")
    with (
        pytest.raises(ValueError, match="same place"),
        splice(lm, {SITE: Lossy(), "blocks.1.hook_resid_post": Lossy()}),
    ):
        pass
    with pytest.raises(ValueError, match="3 layers"), splice(lm, {SITE: Lossy(), "blocks.9.resid_post": Lossy()}):
        pass


def test_splices_nest_and_end_with_their_block(make_lm: MakeLM, tokens):
    lm = make_lm("gpt2")
    clean = lm.logits(tokens)
    with splice(lm, {"blocks.0.mlp_out": torch.zeros_like}):
        outer = lm.logits(tokens)
        with splice(lm, {"blocks.2.attn_out": torch.zeros_like}):
            inner = lm.logits(tokens)
        assert torch.equal(lm.logits(tokens), outer)
    assert torch.equal(lm.logits(tokens), clean)
    with splice(lm, {"blocks.0.mlp_out": torch.zeros_like, "blocks.2.attn_out": torch.zeros_like}):
        assert torch.equal(lm.logits(tokens), inner)
    with pytest.raises(KeyError), splice(lm, {"blocks.0.mlp_out": torch.zeros_like}):
        raise KeyError
    assert torch.equal(lm.logits(tokens), clean)


def test_modules_returning_several_things_keep_the_rest(tokens):
    class Pair(nn.Module):
        def forward(self, x):
            return x + 1, "second"

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            value, word = self.pair(x)
            assert word == "second"
            return value

    lm, x = LM.wrap(Outer()), torch.randn(4, 3)
    with splice(lm, {"module:pair": lambda value: value * 2}):
        assert torch.equal(lm.logits(x), (x + 1) * 2)
    with splice(lm, {"module:pair@input": lambda value: value * 2}):
        assert torch.equal(lm.logits(x), x * 2 + 1)
