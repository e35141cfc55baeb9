"""Cosines, edges and assignments against the whole matrix, however it is cut into blocks."""

from itertools import permutations

import numpy as np
import pytest
import torch

from matryo.sae.compare import agreement, assign_rows, match, match_rows, roc_of, similar_pairs

pytestmark = pytest.mark.usefixtures("no_gradients")

LARGE, SMALL, D = 23, 11, 5


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(3)
    large = torch.randn(LARGE, D, generator=generator, dtype=torch.float64)
    small = torch.randn(SMALL, D, generator=generator, dtype=torch.float64) * 7
    large[4] = 0
    return large, small


def cosines(large, small):
    whole = torch.zeros(len(large), len(small), dtype=torch.float64)
    for j, a in enumerate(large):
        for i, b in enumerate(small):
            whole[j, i] = 0 if not a.any() else (a @ b) / (a.norm() * b.norm())
    return whole


@pytest.mark.parametrize("block", [1, 4, 11, 100])
def test_nearest_both_ways_equals_the_whole_matrix(rows, block):
    whole = cosines(*rows)
    there, back = match_rows(*rows, block=block)
    for found, expected in ((there, whole.max(1)), (back, whole.max(0))):
        assert torch.allclose(found.cosine, expected.values, atol=1e-12)
    alive = torch.arange(LARGE) != 4  # a row of zeros is as near to all
    assert torch.equal(there.latent[alive], whole.max(1).indices[alive])
    assert torch.equal(back.latent, whole.max(0).indices)


@pytest.mark.parametrize("block", [1, 4, 11, 100])
def test_of_equal_rows_the_first_is_the_nearest_whatever_the_blocks(block):
    axes = torch.eye(3, dtype=torch.float64)
    large, small = axes[[0, 1, 2, 1, 0]], 2 * axes[[2, 1, 2, 0, 1, 0, 0]]
    there, back = match_rows(large, small, block=block)
    assert there.latent.tolist() == [3, 1, 0, 1, 3]
    assert back.latent.tolist() == [2, 1, 2, 0, 1, 0, 0]


@pytest.mark.parametrize("block", [3, 50])
def test_edges_are_all_pairs_above_the_threshold(rows, block):
    whole = cosines(*rows)
    found = similar_pairs(*rows, above=0.3, block=block)
    expected = (whole > 0.3).nonzero()
    assert torch.equal(torch.stack([found.large, found.small], 1), expected)
    assert torch.allclose(found.cosine, whole[whole > 0.3], atol=1e-12)


def test_too_many_edges_are_refused(rows, monkeypatch):
    monkeypatch.setattr(match, "MOST_EDGES", 5)
    with pytest.raises(ValueError, match=r"more than 5 pairs have a cosine above -1\.0; expected fewer"):
        similar_pairs(*rows, above=-1.0)


def test_the_assignment_has_the_largest_sum(rows, monkeypatch):
    large, small = rows[0][:4], rows[1][:6]
    found = assign_rows(large, small)
    whole = cosines(large, small)
    best = max(sum(float(whole[j, i]) for j, i in enumerate(chosen)) for chosen in permutations(range(6), 4))
    assert float(found.cosine.sum()) == pytest.approx(best)
    assert len(set(found.small.tolist())) == 4 and found.large.tolist() == [0, 1, 2, 3]
    assert torch.allclose(found.cosine, whole[found.large, found.small], atol=1e-12)
    monkeypatch.setattr(match, "MOST_ASSIGNED", 20)
    with pytest.raises(ValueError, match="4 and 6 latents needs all their cosines in memory"):
        assign_rows(large, small)


def test_other_widths_are_refused(rows):
    with pytest.raises(ValueError, match="widths 5 and 4"):
        match_rows(rows[0], rows[1][:, :4])


def test_roc_equals_counting_pairs():
    rng = np.random.default_rng(0)
    cosine, novel = rng.integers(0, 12, 60) / 10, rng.random(60) < 0.4
    found = roc_of(cosine, novel)
    pairs = [(a < b) + (a == b) / 2 for a in cosine[novel] for b in cosine[~novel]]
    assert found.auc == pytest.approx(np.mean(pairs))
    gains = {t: (cosine[novel] <= t).mean() - (cosine[~novel] <= t).mean() for t in np.unique(cosine)}
    assert found.tpr - found.fpr == pytest.approx(max(gains.values()))
    assert found.tpr == pytest.approx((cosine[novel] <= found.threshold).mean())
    assert found.fpr == pytest.approx((cosine[~novel] <= found.threshold).mean())
    for tau, fpr, tpr in found.curve:
        assert (fpr, tpr) == pytest.approx(((cosine[~novel] <= tau).mean(), (cosine[novel] <= tau).mean()))
    best = max(gains, key=gains.get)
    larger = min((c for c in cosine if c > best), default=1.0)
    assert found.threshold == pytest.approx((best + larger) / 2), "no cosine is at the threshold itself"
    assert roc_of(np.array([0.2, 0.6]), np.array([True, False])).threshold == pytest.approx(0.4)
    assert roc_of(np.array([0.6, 0.2]), np.array([True, False])).threshold == pytest.approx(0.8)
    right = [(c <= 0.5) == n for c, n in zip(cosine, novel, strict=True)]
    assert agreement(cosine, novel, 0.5) == pytest.approx(np.mean(right))


def test_roc_of_one_class_is_undefined():
    found = roc_of(np.array([0.1, 0.2]), np.array([True, True]))
    assert np.isnan(found.auc) and np.isnan(found.threshold) and found.curve == ()
