"""One form for all kinds, and SAEs put together from latents of several: equal outputs, saved, read by SAELens."""

from dataclasses import replace

import pytest
import torch
from tests.sae.compare.families import ALL, N_LARGE, N_SMALL, activations, sae_of

from matryo.sae.compare import as_jumprelu, join, match_rows, same_latents
from matryo.sae.nn import SAE, SAEConfig, build

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "topk"])
def test_every_kind_by_thresholds_is_the_same_function(kind):
    x, sae = activations(), sae_of(kind, N_LARGE, 4)
    form = as_jumprelu(sae)
    assert form.config.kind == "jumprelu"
    assert torch.allclose(form.encode(x), sae.encode(x), atol=1e-12)
    assert torch.allclose(form(x), sae(x), atol=1e-12)
    assert 0 < float((form.encode(x) > 0).double().mean()) < 1


def test_a_gate_with_negative_threshold_keeps_what_its_relu_passes():
    x, sae = activations(), sae_of("gated", N_LARGE, 4)
    with torch.no_grad():
        sae.b_mag.sub_(1.0)  # the gate opens where the magnitude is negative
    assert torch.allclose(as_jumprelu(sae).encode(x), sae.encode(x), atol=1e-12)


def test_a_topk_gets_the_threshold_of_its_mean_sparsity():
    x, sae = activations(), sae_of("topk", N_LARGE, 4)
    form = as_jumprelu(sae, x.split(40))
    assert float((form.encode(x) > 0).sum(1).double().mean()) == pytest.approx(sae.config.k)
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    expected = pre * (pre > form.threshold[0])
    assert torch.allclose(form.encode(x), expected.clamp_min(0))
    with pytest.raises(ValueError, match="calibration has 0 tokens"):
        as_jumprelu(sae)


def test_transcoders_and_uncalibrated_saes_are_refused():
    with pytest.raises(ValueError, match="a transcoder was given"):
        as_jumprelu(build(SAEConfig(kind="relu", d_in=4, n_latents=6, d_out=3)))
    with pytest.raises(ValueError, match="batch_topk SAE has no inference threshold"):
        as_jumprelu(build(SAEConfig(kind="batch_topk", d_in=4, n_latents=6, k=2)))


def test_joined_latents_are_active_as_they_were_under_any_b_dec():
    x = activations()
    one, other = as_jumprelu(sae_of("relu", N_SMALL, 1)), as_jumprelu(sae_of("batch_topk", N_LARGE, 2))
    left, right = torch.tensor([16, 2, 5]), torch.arange(N_LARGE) % 2 == 0
    b_dec = torch.linspace(-1, 2, len(one.b_dec), dtype=torch.float64)
    made = join([(one, left), (other, right)], b_dec)
    expected = torch.cat([one.encode(x)[:, left], other.encode(x)[:, right]], 1)
    assert torch.allclose(made.encode(x), expected, atol=1e-12)
    rows = torch.cat([one.W_dec[left], other.W_dec[right]])
    assert torch.allclose(made(x), expected @ rows + b_dec, atol=1e-12)
    most = max(one.config.k, other.config.k)
    for kept in (left, left[:1]):
        assert join([(one, kept)], b_dec).config.k == min(one.config.k, len(kept))
    other.config = replace(other.config, k=7)
    assert join([(one, left), (other, right)], b_dec).config.k == 7 == most + 3
    with pytest.raises(ValueError, match="0 latents were chosen"):
        join([(one, left[:0])], b_dec)


def test_with_its_own_b_dec_nothing_is_rounded():
    sae = as_jumprelu(sae_of("batch_topk", N_LARGE, 2, torch.float32))
    again = join([(sae, torch.arange(N_LARGE))], sae.b_dec)
    for name, value in sae.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_a_stitched_sae_is_saved_read_by_saelens_and_stitched_further(tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    x = activations().float()
    one, other = (as_jumprelu(sae_of(kind, n, 1, torch.float32)) for kind, n in (("gated", 17), ("relu", 29)))
    made = join([(one, torch.arange(17)), (other, torch.arange(3, 9))], one.b_dec)
    made.save(tmp_path / "stitched", {"hook_name": "blocks.1.hook_resid_pre"})
    again = SAE.load(tmp_path / "stitched")
    assert torch.equal(again(x), made(x))
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "stitched"))
    assert torch.allclose(theirs(x), made(x), atol=1e-5)
    further = join([(as_jumprelu(again), torch.arange(23)), (other, torch.tensor([0, 1]))], other.b_dec)
    assert further.config.n_latents == 25


def test_equal_latents_are_known_whatever_b_dec_they_stand_beside():
    sae = as_jumprelu(sae_of("batch_topk", N_LARGE, 2, torch.float32))
    order = torch.randperm(N_LARGE, generator=torch.Generator().manual_seed(0))
    moved = join([(sae, order)], sae.b_dec + 0.7)
    there, _ = match_rows(moved.W_dec, sae.W_dec)
    assert bool(same_latents(moved, sae, there.latent).all())
    for name in ("W_enc", "b_enc", "W_dec", "threshold"):
        changed = join([(sae, order)], sae.b_dec + 0.7)
        with torch.no_grad():
            part = getattr(changed, name)
            (part.select(0 if name == "W_dec" else -1, 5)).mul_(1.001).add_(1e-3)
        expected = torch.arange(N_LARGE) != 5
        assert torch.equal(same_latents(changed, sae, there.latent), expected), name
