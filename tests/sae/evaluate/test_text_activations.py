"""One pass over texts of all lengths gives what running each text by itself gives; pooling is a mean over tokens."""

import os
import tempfile

import numpy as np
import pytest
import torch
from tests.sae.evaluate.labelled_cases import activations, axes_sae, dense

from matryo.sae.evaluate.text_activations import merge_pooled, pool_latents, read_texts
from matryo.sae.lm import capture, load_lm
from matryo.sae.nn import SAEConfig, build

SITE = "blocks.2.resid_pre"
TEXTS = [
    "The state of the union.",
    "Whale",
    "A much longer text about ships, seas and the white whale itself",
    "of",
    "law",
]


@pytest.fixture(scope="module")
def lm():
    torch.set_num_threads(1)
    return load_lm("tiny")


def alone(lm, text, most):
    ids = lm.encode([text])[0][:most]
    return capture(lm, torch.tensor([[lm.bos_id, *ids]]), [SITE])[SITE][0, 1:]


@pytest.mark.parametrize("most", [3, 50])
def test_texts_of_all_lengths_in_one_pass_are_what_each_is_alone(lm, most, tmp_path):
    done = []
    found = read_texts(lm, SITE, TEXTS, most, advance=done.append)
    assert sum(done) == len(found.values)
    for place, number in enumerate(found.order.tolist()):
        mine = torch.from_numpy(np.array(found.values[found.start[place] : found.start[place + 1]]))
        assert torch.allclose(mine, alone(lm, TEXTS[number], most), atol=1e-4)
    means = torch.stack([alone(lm, text, most).mean(0) for text in TEXTS])
    assert torch.allclose(found.mean(), means, atol=1e-4)


def test_activations_that_are_kept_are_read_and_not_made_again(lm, tmp_path, monkeypatch):
    first = read_texts(lm, SITE, TEXTS, 4, tmp_path / "kept")
    monkeypatch.setattr("matryo.sae.evaluate.text_activations._fill", lambda *_: pytest.fail("the model ran again"))
    again = read_texts(lm, SITE, TEXTS, 4, tmp_path / "kept")
    assert np.array_equal(first.values, again.values) and torch.equal(first.order, again.order)
    with pytest.raises(pytest.fail.Exception):
        read_texts(lm, SITE, TEXTS, 5, tmp_path / "kept")
    assert sorted(path.suffix for path in (tmp_path / "kept").iterdir()) == [".json", ".npy"]


def test_what_a_killed_process_left_is_removed_and_nothing_is_left_without_a_folder(lm, tmp_path, monkeypatch):
    old, new = tmp_path / ".texts-old.npy", tmp_path / ".texts-new.npy"
    for path in (old, new):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    read_texts(lm, SITE, TEXTS, 2, tmp_path)
    assert not old.exists() and new.exists()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    found = read_texts(lm, SITE, TEXTS, 2)
    assert not list((tmp_path / "tmp").iterdir()) and bool(torch.isfinite(found.mean()).all())


def test_a_text_without_a_token_is_refused(lm):
    with pytest.raises(ValueError, match="has no token; expected at least one"):
        read_texts(lm, SITE, ["fine", ""], 4)


@pytest.mark.parametrize("kind", ["axes", "batch_topk"])
def test_pooled_latents_are_means_over_tokens_times_row_norms(kind):
    means = torch.randn(700, 11, generator=torch.Generator().manual_seed(2))
    acts = activations(means)
    if kind == "axes":
        sae = axes_sae()
    else:
        sae = build(SAEConfig(kind="batch_topk", d_in=11, n_latents=30, k=4))
        sae.calibrate([torch.from_numpy(acts.values)])
        sae.eval()
    z = sae.encode(torch.from_numpy(acts.values)).detach() * sae.W_dec.detach().norm(dim=1)
    expected = torch.zeros(700, z.shape[1])
    for place, number in enumerate(acts.order.tolist()):
        expected[number] = z[acts.start[place] : acts.start[place + 1]].mean(0)
    pooled = pool_latents(sae, acts)
    assert torch.allclose(dense(pooled), expected, atol=1e-5)
    weight = torch.randn(700, 3, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(pooled.weighted_sums(weight), expected.T @ weight, atol=1e-3)
    assert torch.allclose(pooled.directions.norm(dim=1), torch.ones(z.shape[1]))
    twice = merge_pooled([pooled, pooled])
    assert torch.allclose(dense(twice), torch.cat([expected, expected]), atol=1e-5)
