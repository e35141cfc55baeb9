"""The ensemble against the paper's equations written once more: one network at a time, autograd, torch's Adam."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from matryo.empathy.agents import EmpathicDQN, LearnConfig, MemberConfig
from matryo.empathy.replay import Transitions

B, OTHERS, PLANES, CELLS = 7, 3, 2, 50
SMALL = LearnConfig(hidden=24, target_every=4, batch_size=B, prefill=B, lr=3e-3)
MEMBERS = [
    MemberConfig(selfishness=0.3, seed=1),
    MemberConfig(agent="dqn", selfishness=1.0, seed=2),
    MemberConfig(agent="kill_penalty", selfishness=1.0, strength=2.5, seed=3),
    MemberConfig(agent="own_value", selfishness=0.4, seed=4),
    MemberConfig(agent="true_reward", selfishness=0.25, seed=5),
]


def make_batch(members, seed):
    rng = np.random.default_rng(seed)
    return Transitions(
        obs=rng.integers(0, 256, (members, B, CELLS), dtype=np.uint8),
        action=rng.integers(0, 5, (members, B)).astype(np.uint8),
        next_views=rng.integers(0, 256, (members, B, 1 + OTHERS, CELLS), dtype=np.uint8),
        share=rng.integers(0, 2, (members, B, OTHERS)).astype(np.float32),
        reward=rng.normal(size=(members, B)).astype(np.float32),
        other_reward=rng.normal(size=(members, B, OTHERS)).astype(np.float32),
        kills=rng.integers(0, 2, (members, B)).astype(np.uint8),
        terminated=rng.random((members, B)) < 0.3,
    )


class Twin:
    """One member, as the paper's pseudocode has it."""

    def __init__(self, ensemble, m):
        self.member, self.config = ensemble.members[m], ensemble.config
        self.q, self.q_emp = self.network(ensemble.q, m), self.network(ensemble.q_emp, m)
        self.target = copy.deepcopy(self.q)
        self.optimisers = [torch.optim.Adam(net.parameters(), lr=self.config.lr) for net in (self.q, self.q_emp)]
        self.t, self.m = 0, m

    def network(self, stacked, m):
        sizes = stacked.sizes
        net = nn.Sequential(nn.Linear(*sizes[:2]), nn.ReLU(), nn.Linear(*sizes[1:3]), nn.ReLU(), nn.Linear(*sizes[2:]))
        with torch.no_grad():
            for layer, weight, bias in zip(net[::2], stacked.weights, stacked.biases, strict=True):
                layer.weight.copy_(weight[m].T)
                layer.bias.copy_(bias[m, 0])
        return net

    def update(self, batch):
        if self.t % self.config.target_every == 0:
            self.target.load_state_dict(self.q.state_dict())
        m, gamma, who = self.m, self.config.gamma, self.member
        losses = [[], []]
        for i in range(B):
            obs = torch.tensor(batch.obs[m, i] / 100, dtype=torch.float32)
            action = int(batch.action[m, i])
            after = torch.tensor(batch.next_views[m, i] / 100, dtype=torch.float32)
            reward, beta = float(batch.reward[m, i]), who.selfishness
            if who.agent == "kill_penalty":
                reward -= who.strength * int(batch.kills[m, i])
            if who.agent == "true_reward":
                reward = beta * reward + (1 - beta) * float(batch.other_reward[m, i].mean())
            on = 0.0 if batch.terminated[m, i] else 1.0
            with torch.no_grad():
                best = int(self.q(after[0]).argmax())
                y_self = reward + on * gamma * float(self.target(after[0])[best])
                v_other = sum(
                    float(batch.share[m, i, k]) * gamma * float(self.target(after[1 + k]).max()) for k in range(OTHERS)
                )
                if who.agent == "own_value":
                    v_other = on * gamma * float(self.target(after[0]).max())
            if who.agent not in ("empathic", "own_value"):
                beta = 1.0
            losses[0].append((self.q(obs)[action] - y_self) ** 2)
            losses[1].append((self.q_emp(obs)[action] - (beta * y_self + (1 - beta) * v_other)) ** 2)
        for optimiser, loss in zip(self.optimisers, losses, strict=True):
            optimiser.zero_grad()
            (sum(loss) / B).backward()
            optimiser.step()
        self.t += 1
        return [float(sum(loss).detach() / B) for loss in losses]


def test_updates_agree_with_the_plain_twins():
    torch.manual_seed(0)
    # "mean" only changes the shares, which the batch has; so one test serves every aggregation but the minimum
    ensemble = EmpathicDQN(MEMBERS, PLANES, OTHERS, SMALL)
    twins = [Twin(ensemble, m) for m in range(len(MEMBERS))]
    for step in range(10):
        batch = make_batch(len(MEMBERS), step)
        told = ensemble.update(batch)
        for m, twin in enumerate(twins):
            assert twin.update(batch) == pytest.approx([told["loss"][m], told["loss_emp"][m]], rel=2e-4)
    probe = np.random.default_rng(99).integers(0, 256, (len(MEMBERS), 11, PLANES, 5, 5), dtype=np.uint8)
    q, q_emp, q_target = ensemble.values(probe)
    for m, twin in enumerate(twins):
        x = torch.tensor(probe[m].reshape(11, -1) / 100, dtype=torch.float32)
        for ours, net in ((q, twin.q), (q_emp, twin.q_emp), (q_target, twin.target)):
            assert torch.allclose(torch.from_numpy(ours[m]), net(x), atol=2e-3)


def test_the_target_identity_on_a_batch_worked_out_by_hand():
    """One other, β = 0.3, γ = 0.5: networks that return constants make the sum plain."""
    ensemble = EmpathicDQN([MemberConfig(selfishness=0.3)], 1, 1, LearnConfig(gamma=0.5, hidden=8))
    ensemble.flat.zero_()
    ensemble.q.biases[-1][0, 0] = torch.tensor([1.0, 9.0, 0.0, 0.0, 0.0])  # its argmax is 1
    ensemble.q_target.biases[-1][0, 0] = torch.tensor([7.0, 2.0, 3.0, 0.0, 8.0])  # so Q_T(s', a*) = 2, max = 8
    batch = make_batch(1, 0)
    one = Transitions(
        obs=batch.obs[:, :3, :25],
        action=batch.action[:, :3],
        next_views=batch.next_views[:, :3, :2, :25],
        share=np.array([[[1.0], [1.0], [0.0]]], dtype=np.float32),
        reward=np.array([[10.0, 20.0, 30.0]], dtype=np.float32),
        other_reward=np.zeros((1, 3, 1), dtype=np.float32),
        kills=np.zeros((1, 3), dtype=np.uint8),
        terminated=np.array([[False, True, False]]),
    )
    y_self, y_emp = ensemble.targets(one)
    assert y_self[0].tolist() == [10 + 0.5 * 2, 20, 30 + 0.5 * 2]
    # the other's value is not masked by `terminated` here: that is the share's business
    assert y_emp[0] == pytest.approx([0.3 * 11 + 0.7 * 4, 0.3 * 20 + 0.7 * 4, 0.3 * 31])


def test_beta_one_is_double_dqn():
    """Q_emp of β = 1 begun with Q's weights stays equal to Q bit for bit."""
    ensemble = EmpathicDQN([MemberConfig(selfishness=1.0, seed=8)], PLANES, OTHERS, SMALL)
    ensemble.q_emp.flat.copy_(ensemble.q.flat)
    for step in range(9):
        ensemble.update(make_batch(1, step))
    assert torch.equal(ensemble.q_emp.flat, ensemble.q.flat)
    assert not torch.equal(ensemble.q_target.flat, ensemble.q.flat)


def test_the_minimum_over_others():
    config = LearnConfig(hidden=8, aggregation="minimum", gamma=1.0)
    ensemble = EmpathicDQN([MemberConfig(selfishness=0.0)], 1, OTHERS, config)
    batch = make_batch(1, 3)
    batch = Transitions(
        **(vars(batch) | {"obs": batch.obs[..., :25], "next_views": batch.next_views[..., :25]}),
    )
    _, _, target = ensemble.values(batch.next_views.reshape(1, -1, 1, 5, 5))
    values = target.max(-1).reshape(B, 1 + OTHERS)[:, 1:] * batch.share[0]
    assert ensemble.targets(batch)[1][0] == pytest.approx(values.min(1), rel=1e-5)


def test_the_target_is_copied_before_the_first_update_and_every_so_many():
    ensemble, copies = EmpathicDQN(MEMBERS, PLANES, OTHERS, SMALL), []
    before = ensemble.q_target.flat.clone()
    for step in range(9):
        held = ensemble.q.flat.clone()
        ensemble.update(make_batch(len(MEMBERS), step))
        if not torch.equal(ensemble.q_target.flat, before) or step == 0:
            assert torch.equal(ensemble.q_target.flat, held)
            copies.append(step)
        before = ensemble.q_target.flat.clone()
    assert copies == [0, 4, 8]


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("beside", "threads"), [([0], 1), ([2], 2), ([3, 1, 4, 0], 1), ([5, 6, 7], 2), (range(8), 3)])
def test_a_member_is_the_same_bits_in_any_company(beside, threads):
    kinds = [
        *MEMBERS,
        MemberConfig(agent="aup", selfishness=1.0, strength=0.3, seed=6),
        MemberConfig(agent="aup", selfishness=1.0, strength=0.0, seed=6),
        MemberConfig(selfishness=0.9, seed=6),
    ]
    beside = list(beside)
    whole = EmpathicDQN(kinds, PLANES, OTHERS, SMALL)
    some = EmpathicDQN([kinds[i] for i in beside], PLANES, OTHERS, SMALL, threads)
    rng = np.random.default_rng(5)
    for step in range(6):
        batch = make_batch(len(kinds), step)
        part = Transitions(**{key: value[beside] for key, value in vars(batch).items()})
        told, shown = whole.update(batch), some.update(part)
        assert np.array_equal(told["loss"][beside], shown["loss"])
        obs = rng.integers(0, 256, (len(kinds), PLANES, 5, 5), dtype=np.uint8)
        assert np.array_equal(whole.select_action(obs, 0.4)[beside], some.select_action(obs[beside], 0.4))
    for ours, theirs in ((whole.q, some.q), (whole.q_emp, some.q_emp), (whole.q_target, some.q_target)):
        assert torch.equal(ours.flat[beside], theirs.flat)


def test_exploration_is_uniform_at_the_given_rate():
    members = [MemberConfig(seed=s) for s in range(200)]
    ensemble = EmpathicDQN(members, 1, 1, LearnConfig(hidden=8))
    obs = np.zeros((200, 1, 5, 5), dtype=np.uint8)
    greedy = ensemble.select_action(obs, 0)
    actions = np.stack([ensemble.select_action(obs, 0.4) for _ in range(200)])
    off = (actions != greedy).mean()
    assert off == pytest.approx(0.4 * 4 / 5, abs=4 * np.sqrt(0.32 * 0.68 / actions.size))
    assert ensemble.config.epsilon_at(0) == 1.0
    assert ensemble.config.epsilon_at(50_000) == pytest.approx(0.505)
    assert ensemble.config.epsilon_at(10**6) == pytest.approx(0.01)


def test_initial_weights_are_xavier_uniform_and_seeded():
    ensemble = EmpathicDQN([MemberConfig(seed=1), MemberConfig(seed=2), MemberConfig(seed=1, selfishness=0.9)], 1, 1)
    assert sum(w[0].numel() for w in ensemble.q.weights + ensemble.q.biases) == 20_485
    for weight, (a, b) in zip(ensemble.q.weights, ((25, 128), (128, 128), (128, 5)), strict=True):
        bound = (6 / (a + b)) ** 0.5
        assert weight.abs().max() <= bound
        assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
    assert all(not bias.any() for bias in ensemble.q.biases)
    assert torch.equal(ensemble.q.flat[0], ensemble.q.flat[2]) and not torch.equal(
        ensemble.q.flat[0], ensemble.q.flat[1]
    )
    assert not torch.equal(ensemble.q.flat, ensemble.q_emp.flat)


@pytest.mark.parametrize(
    "shape, dtype", [((1, 25), "uint8"), ((2, 1, 5, 5), "uint8"), ((1, 2, 5, 5), "uint8"), ((1, 1, 5, 5), "float32")]
)
def test_an_observation_of_the_wrong_shape_is_refused(shape, dtype):
    ensemble = EmpathicDQN([MemberConfig()], 1, 1)
    for epsilon in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"expected uint8 \(1, 1, 5, 5\)"):
            ensemble.select_action(np.zeros(shape, dtype=dtype), epsilon)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"selfishness": 1.5}, "selfishness is 1.5; expected 0"),
        ({"selfishness": -0.1}, "selfishness is -0.1; expected 0"),
        ({"selfishness": float("nan")}, "selfishness is nan"),
        ({"agent": "empatic"}, "did you mean 'empathic'"),
        ({"agent": "dqn", "selfishness": 0.5}, "dqn is β = 1"),
        ({"strength": -1.0}, "strength is -1.0"),
    ],
)
def test_members_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        MemberConfig(**fields)
