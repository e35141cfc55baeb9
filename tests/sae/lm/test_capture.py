from collections.abc import Callable

import pytest
import torch
from torch import nn

from matryo.sae.lm import LM, capture, splice
from matryo.sae.lm.capturing import CPU_PASS_TOKENS

MakeLM = Callable[[str], LM]


def fail(*_):
    raise AssertionError("this module should not have run")


def test_the_forward_pass_stops_at_the_last_site(make_lm: MakeLM, tokens):
    lm = make_lm("gpt2")
    blocks = lm.model.transformer.h
    stops = {
        "blocks.1.resid_pre": blocks[1].ln_1,
        "blocks.1.attn_out": blocks[1].ln_2,
        "blocks.1.resid_mid": blocks[1].mlp,
        "blocks.1.resid_post": blocks[2],
        "blocks.2.resid_post": lm.model.transformer.ln_f,
    }
    for site, next_module in stops.items():
        handle = next_module.register_forward_pre_hook(fail)
        try:
            for asked in ([site], [site, "blocks.0.attn_out"], ["blocks.0.attn_out", site]):
                assert list(capture(lm, tokens, asked)) == asked
            with pytest.raises(AssertionError, match="should not have run"):
                lm.logits(tokens)
        finally:
            handle.remove()


def test_passes_of_any_size_agree(make_lm: MakeLM):
    lm = make_lm("llama")
    rows = CPU_PASS_TOKENS // 13 + 4
    tokens = torch.randint(0, 37, (rows, 13))
    passes = []
    handle = lm.model.model.embed_tokens.register_forward_hook(lambda _, args, out: passes.append(len(args[0])))
    try:
        names = ["blocks.1.resid_post", "blocks.2.mlp_out"]
        split = capture(lm, tokens, names)
        assert passes == [rows - 4, 4]
        whole = capture(lm, tokens, names, pass_tokens=10**9)
        single = capture(lm, tokens, names, pass_tokens=1)
        assert passes[2:] == [rows] + [1] * rows
    finally:
        handle.remove()
    for name in names:
        torch.testing.assert_close(split[name], whole[name], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(single[name], whole[name], atol=1e-5, rtol=1e-5)


def test_what_is_captured_can_be_trained_on_and_changed(make_lm: MakeLM, tokens):
    lm = make_lm("gpt2")
    names = ["blocks.1.resid_pre", "blocks.0.resid_post", "blocks.1.hook_resid_pre"]  # one and the same value
    first, second, third = capture(lm, tokens, names).values()
    assert torch.equal(first, second) and torch.equal(first, third) and not first.requires_grad
    weight = torch.randn(24, 9, requires_grad=True)
    (first @ weight).square().sum().backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0
    kept = second.clone()
    first.zero_()
    third.fill_(7)
    assert torch.equal(second, kept)


def test_number_types_are_the_models(make_lm: MakeLM, tokens):
    import copy

    lm = make_lm("qwen2")
    half = LM.wrap(copy.deepcopy(lm.model).to(torch.bfloat16), name="half")
    got = capture(half, tokens.int(), ["blocks.1.resid_post"])["blocks.1.resid_post"]
    assert got.dtype == torch.bfloat16
    exact = capture(lm, tokens, ["blocks.1.resid_post"])["blocks.1.resid_post"]
    assert (got - exact).norm() < 0.03 * exact.norm()


def test_bad_tokens_are_refused(make_lm: MakeLM):
    lm = make_lm("gpt2")
    site = ["blocks.0.resid_pre"]
    for bad, words in (
        (torch.tensor([[1, 37]]), "token 37 is not of gpt2, which has 0 to 36"),
        (torch.tensor([[1, -100]]), "token -100 is not of gpt2"),
        (torch.zeros(2, 17, dtype=torch.long), "rows of 17 tokens: gpt2 takes at most 16"),
        (torch.zeros(5, dtype=torch.long), "expected whole numbers"),
        (torch.zeros(2, 5), "expected whole numbers"),
        (torch.zeros(0, 5, dtype=torch.long), "expected whole numbers"),
    ):
        for run in (lambda bad=bad: capture(lm, bad, site), lambda bad=bad: lm.logits(bad)):
            with pytest.raises(ValueError, match=words) as caught:
                run()
            assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="no site"):
        capture(lm, torch.ones(1, 2, dtype=torch.long), [])


class Odd(nn.Module):
    """One submodule that never runs, one that returns no activations, one that loses the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.kind, self.mean = nn.Linear(3, 3), Kind(), Mean()

    def forward(self, x):
        self.kind(x)
        return self.mean(x)


class Kind(nn.Module):
    def forward(self, x):
        return "row"


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(0, keepdim=True)


def test_modules_that_give_no_activations_are_refused():
    lm = LM.wrap(Odd(), name="odd")
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"'module:idle': odd did not run this module"):
        capture(lm, x, ["module:kind@input", "module:idle"])
    with pytest.raises(ValueError, match="Kind returns str, not a tensor"):
        capture(lm, x, ["module:kind"])
    with pytest.raises(ValueError, match=r"\(1, 3\) for 4 rows"):
        capture(lm, x, ["module:mean"])
    with pytest.raises(ValueError, match="without a tensor"):
        capture(LM.wrap(Deaf()), x, ["module:kind@input"])


class Deaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kind = Mute()

    def forward(self, x):
        return self.kind(), x


class Mute(nn.Module):
    def forward(self):
        return 0


def test_a_failing_model_leaves_no_hooks(make_lm: MakeLM, tokens):
    lm = make_lm("gpt2")
    with pytest.raises(RuntimeError, match="on purpose"), splice(lm, {"blocks.1.attn_out": purpose}):
        capture(lm, tokens, ["blocks.0.resid_pre", "blocks.2.resid_post"])


def purpose(_):
    raise RuntimeError("on purpose")
