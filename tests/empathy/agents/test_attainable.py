"""Attainable-utility preservation against its equations, one value function at a time."""

import numpy as np
import pytest
import torch

from matryo.empathy.agents import AttainableUtilities, LearnConfig, MemberConfig
from matryo.empathy.replay import Transitions

CELLS, B = 25, 6
CONFIG = LearnConfig(hidden=12, lr=1e-2)
MEMBERS = [MemberConfig(agent="aup", selfishness=1.0, strength=lam, seed=s) for lam, s in ((0.5, 1), (2.0, 2))]


def make_batch(seed):
    rng = np.random.default_rng(seed)
    views = (rng.random((3, B, 3, CELLS)) < 0.2) * rng.integers(1, 60, (3, B, 3, CELLS))
    views = views.astype(np.uint8)
    zeros = np.zeros((3, B, 1), dtype=np.float32)
    return Transitions(
        obs=views[:, :, 0],
        action=rng.integers(0, 5, (3, B)).astype(np.uint8),
        next_views=views[:, :, 1:],
        share=zeros,
        reward=zeros[..., 0],
        other_reward=zeros,
        kills=np.zeros((3, B), dtype=np.uint8),
        terminated=rng.random((3, B)) < 0.3,
    )


@pytest.fixture
def aup():
    return AttainableUtilities([0, 2], [MEMBERS[0], MemberConfig(), MEMBERS[1]], CELLS, CONFIG)


def q_values(aup, k, view):
    x = torch.from_numpy(view.astype(np.float32) / 100)
    for i, (weight, bias) in enumerate(zip(aup.net.weights, aup.net.biases, strict=True)):
        x = x @ weight[k] + bias[k, 0]
        x = torch.relu(x) if i < 2 else x
    return x.reshape(10, 5)


def test_the_penalty(aup):
    batch = make_batch(0)
    found = aup.penalty(batch)
    assert not found[1].any()  # no such agent
    for k, m in enumerate((0, 2)):
        for b in range(B):
            q = q_values(aup, k, batch.obs[m, b])
            change = (q[:, batch.action[m, b]] - q[:, 4]).abs().sum() / q[:, 4].abs().sum().clamp(min=1e-3)
            assert found[m, b] == pytest.approx(float(MEMBERS[k].strength * change), rel=1e-4)
    stays = Transitions(**(vars(batch) | {"action": np.full((3, B), 4, dtype=np.uint8)}))
    assert not aup.penalty(stays).any()


def test_random_rewards_are_means_of_weights_of_what_is_seen(aup):
    views = np.zeros((2, 1, CELLS), dtype=np.uint8)
    views[:, 0, [3, 12]] = 5
    expected = (aup.weights[:, 3] + aup.weights[:, 12]) / 2
    assert torch.allclose(aup.rewards(views)[:, 0], expected)
    assert aup.weights.min() >= 0 and aup.weights.max() < 1
    assert not torch.equal(aup.weights[0], aup.weights[1])


def test_its_value_functions_learn_the_random_rewards(aup):
    """With every transition terminal, Q_i(s, a) becomes R_i of the next view."""
    batch = make_batch(1)
    batch = Transitions(**(vars(batch) | {"terminated": np.ones((3, B), dtype=bool)}))
    for step in range(400):
        if step % 50 == 0:
            aup.copy_target()
        aup.update(batch)
    rewards = aup.rewards(batch.next_views[[0, 2], :, 0])
    for k, m in enumerate((0, 2)):
        for b in range(B):
            q = q_values(aup, k, batch.obs[m, b])[:, batch.action[m, b]]
            assert torch.allclose(q, rewards[k, b], atol=0.08)
