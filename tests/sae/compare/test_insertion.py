"""ΔMSE of every latent equals inserting it, one at a time, by hand."""

import pytest
import torch
from tests.sae.compare.families import ALL, N_LARGE, N_SMALL, TOKENS, D, activations, sae_of

from matryo.sae.compare import as_jumprelu, join, measure_insertions
from matryo.sae.compare.insertion import dots_at

pytestmark = pytest.mark.usefixtures("no_gradients")


def brute(small, large, x, b_dec):
    """MSE with latent j of the larger added less MSE without, from dense activations."""
    with torch.no_grad():
        base = small.encode(x) @ small.W_dec + b_dec
        z = large.encode(x)
        before = (x - base).square().mean()
        return torch.stack(
            [(x - base - z[:, j : j + 1] * large.W_dec[j]).square().mean() - before for j in range(z.shape[1])]
        )


@pytest.mark.parametrize("small_kind, large_kind", [*((k, "batch_topk") for k in ALL), *(("relu", k) for k in ALL)])
def test_all_latents_at_once_equal_inserting_each(small_kind, large_kind):
    x = activations()
    small, large = sae_of(small_kind, N_SMALL, 1), sae_of(large_kind, N_LARGE, 2)
    found = measure_insertions({"s": small, "l": large}, [("s", "l")], x.split(50))["s", "l"]
    assert found.delta_mse == pytest.approx(brute(small, large, x, small.b_dec).numpy(), abs=1e-12)
    assert float(found.delta_mse.abs().max()) > 1e-3
    z = large.encode(x).detach()
    assert torch.equal(found.firings, (z > 0).double().sum(0))
    assert found.mse_large == pytest.approx(float((x - large(x)).square().mean()))
    assert found.fvu_small == pytest.approx(float((x - small(x)).square().sum() / (x - x.mean(0)).square().sum()))
    assert found.l0_small == pytest.approx(float((small.encode(x) > 0).sum()) / TOKENS)


def test_a_stitched_sae_with_the_latent_in_it_says_the_same():
    x = activations()
    small, large = sae_of("gated", N_SMALL, 1), sae_of("jumprelu", N_LARGE, 2)
    found = measure_insertions({"s": small, "l": large}, [("s", "l")], [x])["s", "l"]
    one, other = as_jumprelu(small), as_jumprelu(large)
    for j in (0, 3, N_LARGE - 1):
        with_it = join([(one, torch.arange(N_SMALL)), (other, torch.tensor([j]))], one.b_dec)
        change = (x - with_it(x)).square().mean() - (x - small(x)).square().mean()
        assert float(change) == pytest.approx(float(found.delta_mse[j]), abs=1e-12)


def test_float32_is_within_a_millionth_of_float64():
    x = activations()
    small, large = (sae_of("batch_topk", n, seed, torch.float32) for n, seed in ((N_SMALL, 1), (N_LARGE, 2)))
    found = measure_insertions({"s": small, "l": large}, [("s", "l")], x.float().split(64))["s", "l"]
    assert found.delta_mse == pytest.approx(brute(small.double(), large.double(), x, small.b_dec).numpy(), abs=1e-6)


def test_many_pairs_in_one_pass_with_either_b_dec_and_any_split():
    x = activations()
    saes = {name: sae_of("batch_topk", n, seed) for name, n, seed in (("a", 17, 1), ("b", 29, 2), ("c", 31, 3))}
    pairs = [("a", "b"), ("b", "c"), ("a", "c"), ("c", "a")]
    told = []
    one, two = (measure_insertions(saes, pairs, x.split(n), "large", told.append) for n in (TOKENS, 13))
    assert sum(told) == 2 * TOKENS
    for small, large in pairs:
        expected = brute(saes[small], saes[large], x, saes[large].b_dec)
        for found in (one, two):
            assert found[small, large].delta_mse == pytest.approx(expected.numpy(), abs=1e-12)


def test_standard_errors_are_those_of_a_mean_over_tokens():
    x = activations()
    small, large = sae_of("relu", N_SMALL, 1), sae_of("batch_topk", N_LARGE, 2)
    found = measure_insertions({"s": small, "l": large}, [("s", "l")], [x])["s", "l"]
    residual, z = (x - small(x)).detach(), large.encode(x).detach()
    for j in (1, 5):
        change = (residual - z[:, j : j + 1] * large.W_dec[j]).square().mean(1) - residual.square().mean(1)
        expected = float(change.detach().std(correction=0)) / TOKENS**0.5
        assert float(found.standard_error[j]) == pytest.approx(expected)


def test_products_at_entries_equal_the_dense_product():
    sae, x = sae_of("batch_topk", N_LARGE, 2), activations()
    entries = sae.encode_sparse(x)
    rows = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(dots_at(rows, entries, sae.W_dec), (rows @ sae.W_dec.T)[entries.row, entries.latent])


def test_no_activations_are_refused():
    saes = {"s": sae_of("relu", N_SMALL, 1), "l": sae_of("batch_topk", N_LARGE, 2)}
    with pytest.raises(ValueError, match="0 tokens to measure on"):
        measure_insertions(saes, [("s", "l")], [])
