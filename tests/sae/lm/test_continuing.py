"""Endings of a shared prompt, against the same rows written out."""

import pytest
import torch

from matryo.sae.lm import LM, capture, capture_endings, splice


@pytest.mark.parametrize("more", [1, 3])
def test_endings_of_a_shared_prompt_are_those_of_whole_rows(lm: LM, tokens, more):
    prompt, endings = tokens[0, :7], tokens[1:, 7 : 7 + more]
    rows = torch.cat([prompt.expand(len(endings), -1), endings], 1)
    for site in ("blocks.1.resid_pre", "blocks.2.resid_post", "blocks.0.attn_out"):
        found = capture_endings(lm, prompt, endings, site)
        torch.testing.assert_close(found, capture(lm, rows, [site])[site][:, 7:], rtol=1e-4, atol=1e-4)


def test_the_prompt_runs_once(make_lm, tokens):
    lm, seen = make_lm("llama"), []
    handle = lm.model.model.layers[0].mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[:2]))
    capture_endings(lm, tokens[0, :7], tokens[1:, 7:8], "blocks.1.resid_pre")
    handle.remove()
    assert seen == [(1, 7), (4, 1)]


def test_within_a_splice_endings_are_those_of_whole_rows(make_lm, tokens):
    lm, site = make_lm("gpt2"), "blocks.1.resid_pre"
    rows = torch.cat([tokens[0, :7].expand(4, -1), tokens[1:, 7:9]], 1)
    with splice(lm, {"blocks.0.mlp_out": torch.zeros_like}):
        found = capture_endings(lm, tokens[0, :7], tokens[1:, 7:9], site)
        expected = capture(lm, rows, [site])[site][:, 7:]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, capture(lm, rows, [site])[site][:, 7:], atol=1e-2)


def test_plain_modules_read_whole_rows(tokens):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(40, 6), torch.nn.Linear(6, 5))
    found = capture_endings(LM.wrap(model), tokens[0, :7], tokens[1:, 7:9], "module:1")
    torch.testing.assert_close(found, model(tokens[1:, 7:9]).detach())
