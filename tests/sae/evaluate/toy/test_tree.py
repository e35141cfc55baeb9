"""Planted trees: probabilities against what is drawn, and what is refused."""

import pytest
import torch

from matryo.sae.evaluate.toy import Draws, Tree, World, families_tree, generated_tree, paper_tree


def test_the_papers_tree():
    tree = paper_tree()
    assert tree.size == 20 and tree.parents == (0, 1, 2)
    assert tree.l0 == pytest.approx(3 * 0.15 * 1.6 + 8 * 0.05)
    assert [tree.children(i) for i in range(3)] == [(3, 4, 5), (6, 7, 8), (9, 10, 11)]
    assert tree.marginal[3] == pytest.approx(0.03)


def test_families():
    tree = families_tree()
    assert tree.size == 312 and tree.l0 == pytest.approx(24 * 0.12 * 1.8)
    assert tree.parents == tuple(range(0, 312, 13)) and all(tree.exclusive[parent] for parent in tree.parents)
    assert tree.children(13) == tuple(range(14, 26)) and tree.marginal[14] == pytest.approx(0.12 * 0.8 / 12)


TREES = {"paper": paper_tree(), "generated": generated_tree(40, l0=2, seed=3), "families": families_tree(3, 4)}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES.keys())
def test_draws_have_the_trees_probabilities(tree):
    count = 60_000
    active = tree.sample(count, torch.Generator().manual_seed(0))
    for i, parent in enumerate(tree.parent):
        expected = tree.marginal[i]
        error = 4.5 * (expected * (1 - expected) / count) ** 0.5
        assert float(active[:, i].double().mean()) == pytest.approx(expected, abs=error)
        if parent >= 0:
            assert not bool((active[:, i] & ~active[:, parent]).any()), "no child without its parent"
    for parent in tree.parents:
        together = active[:, list(tree.children(parent))].sum(1)
        assert int(together.max()) == 1 if tree.exclusive[parent] else int(together.max()) > 1
    assert float(active.sum(1).double().mean()) == pytest.approx(tree.l0, rel=0.05)


def test_a_generated_tree_is_the_same_for_the_same_seed_and_has_its_l0():
    a, b, c = (generated_tree(100, l0=3, seed=seed) for seed in (1, 1, 2))
    assert a == b and a != c
    assert a.size >= 100 and a.l0 == pytest.approx(3)
    depth = [0] * a.size
    for i, parent in enumerate(a.parent):
        depth[i] = depth[parent] + 1 if parent >= 0 else 0
    assert max(depth) == 2 and len(a.parents) > 10


def test_activations_are_sums_of_active_directions():
    world = World.make(paper_tree(), 20, seed=4)
    x, active = world.sample(50, torch.Generator().manual_seed(1))
    for row, on in zip(x, active, strict=True):
        expected = sum((world.directions[i] for i in range(20) if on[i]), torch.zeros(20))
        assert torch.allclose(row, expected, atol=1e-6)
    gram = world.directions @ world.directions.t()
    assert torch.allclose(gram - gram.diag().diag(), torch.zeros(20, 20), atol=1e-5), "orthogonal"
    assert float(world.directions.norm(dim=1).min()) > 0.8 and float(world.directions.norm(dim=1).std()) > 0.01
    crowded = World.make(generated_tree(40, l0=2), 13, spread=0.1)
    assert crowded.directions.shape == (crowded.tree.size, 13)
    first = [next(iter(Draws(crowded, 7, seed))) for seed in (0, 0, 1)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Tree((0,), (0.5,), (False,)), "each before its children"),
        (lambda: Tree((-1,), (1.5,), (False,)), "expected numbers above 0, at most 1"),
        (lambda: Tree((-1, 0, 0), (0.5, 0.7, 0.6), (True, False, False)), "sum 1.2"),
        (lambda: generated_tree(5), "size is 5"),
        (lambda: generated_tree(12, l0=9), "expected less"),
    ],
)
def test_what_is_no_tree_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
