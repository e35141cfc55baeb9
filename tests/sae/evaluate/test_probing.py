"""Sparse probing finds the planted latent, and equals scikit-learn on dense latents."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.sae.evaluate.labelled_cases import activations, axes_sae, dense, task

from matryo.sae.evaluate.probing import Channels, Drawn, by_task, probe_all, probe_top_k
from matryo.sae.evaluate.tasks import problems_of
from matryo.sae.evaluate.text_activations import pool_latents

CARRIES = {0: 3, 1: 7, 2: 5}
"""The latent, and axis, that each class switches on."""


@pytest.fixture(scope="module")
def planted():
    """Texts of three classes: class c adds 2 to axis CARRIES[c]; half of the axes have another mean for everything."""
    one = task((120, 100, 140), per_document=4)
    means = torch.zeros(len(one.texts), 11)
    means[:, 8:] = 5.0
    for label, axis in CARRIES.items():
        means[one.labels == label, axis] = 2.0
    acts = activations(means, spread=0.4)
    return one, acts, pool_latents(axes_sae(), acts)


@pytest.fixture(scope="module")
def noisy():
    one = task((120, 100, 140), per_document=4)
    means = 0.6 * torch.randn(len(one.texts), 11, generator=torch.Generator().manual_seed(5))
    means[:, :3] += 0.7 * torch.eye(3)[one.labels]
    acts = activations(means, spread=1.0)
    return one, acts, pool_latents(axes_sae(), acts)


def test_one_latent_that_carries_a_class_is_chosen_and_tells_it(planted):
    one, _, pooled = planted
    problems = list(problems_of(one, 0, 4000, 1000).values())
    accuracy, chosen = probe_top_k(pooled, problems, len(one.texts), (1, 2))
    assert chosen[:, 0].tolist() == list(CARRIES.values())
    assert (accuracy > 0.99).all()


def test_a_task_without_a_latent_for_it_is_at_chance(planted):
    one, _, pooled = planted
    found = []
    for seed in range(16):
        labels = np.random.default_rng(seed).permutation(np.arange(len(one.texts)) % 2)
        random = type(one)(one.name, one.texts, labels, ("a", "b"), one.texts)
        problems = list(problems_of(random, seed, 4000, 1000).values())
        found.append(float(probe_top_k(pooled, problems, len(one.texts), (1,))[0]))
    assert np.mean(found) == pytest.approx(0.5, abs=0.04)  # 16 times 90 texts: sd 0.013


@pytest.mark.parametrize("ks", [(1, 2, 5)])
def test_accuracies_are_those_of_scikit_learn_on_dense_latents(noisy, ks):
    one, acts, pooled = noisy
    problems = [p for seed in (0, 1) for p in problems_of(one, seed, 4000, 1000).values()]
    for features, values in ((pooled, dense(pooled)), (Channels(acts.mean()), acts.mean())):
        accuracy, chosen = probe_top_k(features, problems, len(one.texts), ks)
        for at, problem in enumerate(problems):
            x = values.numpy()
            train, test = x[problem.train], x[problem.test]
            difference = np.abs(train[problem.is_train].mean(0) - train[~problem.is_train].mean(0))
            for column, k in enumerate(ks):
                best = np.argsort(-difference)[:k]
                assert set(best) == set(chosen[at, :k].tolist())
                regression = LogisticRegression(max_iter=1000).fit(train[:, best], problem.is_train)
                expected = (regression.predict(test[:, best]) == problem.is_test).mean()
                assert float(accuracy[at, column]) == pytest.approx(expected, abs=1.01 / len(problem.test))
    whole = probe_all(acts.mean(), problems)
    for at, problem in enumerate(problems):
        x = acts.mean().numpy()
        regression = LogisticRegression(max_iter=5000).fit(x[problem.train], problem.is_train)
        expected = (regression.predict(x[problem.test]) == problem.is_test).mean()
        assert float(whole[at]) == pytest.approx(expected, abs=1.01 / len(problem.test))


def test_more_latents_than_there_are_take_all(planted):
    one, acts, _ = planted
    problems = list(problems_of(one, 0, 4000, 1000).values())
    accuracy, chosen = probe_top_k(Channels(acts.mean()), problems, len(one.texts), (11, 500))
    assert chosen.shape == (3, 11) and torch.equal(accuracy[:, 0], accuracy[:, 1])


def test_means_are_over_classes_then_tasks_seed_by_seed(planted):
    one, _, _ = planted
    problem = next(iter(problems_of(one, 0, 100, 100).values()))
    drawn = [
        Drawn(name, label, seed, problem)
        for name, labels in (("x", "ab"), ("y", "c"))
        for seed in (0, 1)
        for label in labels
    ]
    accuracy = torch.tensor([[0.5], [0.7], [0.9], [0.7], [0.2], [0.4]])
    found = by_task(drawn, accuracy, ["top1_accuracy"])
    assert found["x"]["top1_accuracy"].values == pytest.approx((0.6, 0.8))
    assert found["y"]["top1_accuracy"].values == pytest.approx((0.2, 0.4))
    assert found["all"]["top1_accuracy"].values == pytest.approx((0.4, 0.6))
