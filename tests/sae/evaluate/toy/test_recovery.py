"""Recovery on autoencoders built by hand, whose answers are known: perfect, absorbing, split; and by brute force."""

from itertools import permutations

import pytest
import torch

from matryo.sae.evaluate.toy import Tree, World, measure_recovery, paper_tree
from matryo.sae.evaluate.toy.recovery import f1_of, match, split_latents
from matryo.sae.nn import SAEConfig, build

ORDER = torch.randperm(20, generator=torch.Generator().manual_seed(5)).tolist()


def world(seed=0):
    return World.make(paper_tree(), 20, seed)


def sae_of(rows, encoder, bias):
    sae = build(SAEConfig(kind="relu", d_in=rows.shape[1], n_latents=len(rows)))
    with torch.no_grad():
        sae.W_dec.copy_(rows)
        sae.W_enc.copy_(encoder.t())
        sae.b_enc.copy_(bias)
        sae.b_dec.zero_()
    return sae.eval()


def dual(w):
    """Directions that read off each feature's activity: orthogonal features, so v / ‖v‖²."""
    return w.directions / w.directions.square().sum(1, keepdim=True)


def test_the_truth_is_recovered_whatever_the_order_of_latents():
    w = world()
    rows = w.directions[ORDER]
    found = measure_recovery(sae_of(rows, dual(w)[ORDER], torch.full((20,), -1e-3)), w, 4_000)
    assert [ORDER[latent] for latent in found.latent] == list(range(20))
    one = found.recovery
    assert one.cosine == pytest.approx(1, abs=1e-5) and one.mixing == pytest.approx(0, abs=1e-5)
    assert one.parent_active == 1 and one.absorption == 0 and one.split == 1 and one.f1 == 1 and one.dead == 0
    assert one.l0 == one.true_l0 and one.fvu < 1e-4
    assert found.per_feature[3]["absorbed"] == 0 and found.per_feature[0]["active_with_children"] == 1
    assert found.per_feature[0]["absorbed"] is None and found.per_feature[3]["active_with_children"] is None


def test_a_dictionary_built_to_absorb_is_found_out():
    """A child's latent also writes its parent, whose latent is silent when any child is there."""
    w = world(1)
    rows, encoder = w.directions.clone(), dual(w).clone()
    for child, parent in enumerate(w.tree.parent):
        if parent >= 0:
            rows[child] += w.directions[parent]
            encoder[parent] -= dual(w)[child]
    found = measure_recovery(sae_of(rows, encoder, torch.full((20,), -1e-3)), w, 4_000)
    one = found.recovery
    assert found.latent == tuple(range(20))
    assert one.parent_active == 0 and one.absorption == 1
    assert one.mixing == pytest.approx(0.5**0.5, abs=0.05), "a child's row is (parent + child) / √2"
    assert one.split == pytest.approx((3 * 4 + 17) / 20), "a parent is its own latent and its three children's"
    assert one.fvu < 1e-4 and one.l0 < one.true_l0


def test_a_feature_given_to_two_latents_counts_as_two():
    tree = Tree((-1, -1), (0.4, 0.4), (False, False))
    w = World.make(tree, 3, 2)
    read = dual(w)
    # Feature 0 is told by one latent when feature 1 is there too, by another when it is not.
    encoder = torch.stack([read[0] - 2 * read[1], read[0] + read[1], read[1]])
    sae = sae_of(w.directions[[0, 0, 1]], encoder, torch.tensor([-1e-3, -1.5, -1e-3]))
    found = measure_recovery(sae, w, 2_000)
    assert found.per_feature[0]["split"] == 2 and found.per_feature[1]["split"] == 1


def test_matching_f1_and_splitting_against_brute_force():
    generator = torch.Generator().manual_seed(0)
    z = torch.relu(torch.randn(60, 6, generator=generator) - 0.3)
    active = torch.rand(60, 4, generator=generator) < 0.3
    scaled = z / z.amax(0)
    best = max(
        permutations(range(6), 4),
        key=lambda latents: sum(float((scaled[:, j] * active[:, i]).sum()) for i, j in enumerate(latents)),
    )
    assert match(z, active) == best
    for i in range(4):
        said, true = z[:, best[i]] > 0, active[:, i]
        hits = sum(bool(a) and bool(b) for a, b in zip(said, true, strict=True))
        precision, recall = hits / int(said.sum()), hits / int(true.sum())
        assert f1_of(said, true) == pytest.approx(2 * precision * recall / (precision + recall))
        fires, chosen, best_f1 = z > 0, [], 0.0
        while len(chosen) < 6:
            f1, j = max((f1_of(fires[:, [*chosen, j]].any(1), true), -j) for j in range(6))
            if chosen and f1 < best_f1 + 0.03:
                break
            chosen, best_f1 = [*chosen, -j], f1
        assert split_latents(fires, true) == len(chosen)
    assert f1_of(torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)) == 0


def test_too_few_latents_or_samples_are_refused():
    w = world()
    small = build(SAEConfig(kind="relu", d_in=20, n_latents=19)).eval()
    with pytest.raises(ValueError, match="19 latents for 20 features"):
        measure_recovery(small, w, 100)
    same = build(SAEConfig(kind="relu", d_in=20, n_latents=20)).eval()
    with pytest.raises(ValueError, match="expected more samples"):
        measure_recovery(same, w, 3)
