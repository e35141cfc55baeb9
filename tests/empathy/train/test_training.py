"""Training: members in company, resume, checkpoints, what is remembered, and learning itself where it can be told."""

import numpy as np
import pytest
import torch

from matryo.empathy.agents import EmpathicDQN, LearnConfig, MemberConfig, load_agent, save_agent
from matryo.empathy.envs import make_rules, make_world
from matryo.empathy.train import Checkpoints, Interrupted, Training, train

SMALL = LearnConfig(steps=90, prefill=40, epsilon_steps=60, target_every=20, buffer=100, hidden=16, batch_size=8)
MEMBERS = [MemberConfig(selfishness=beta, seed=seed) for beta in (1.0, 0.5) for seed in (0, 1, 2)]
MEMBERS += [MemberConfig(agent="aup", selfishness=1.0, strength=0.5, seed=1)]


def make(world="sharing", members=MEMBERS, config=SMALL, **rules):
    made = make_world(world, make_rules(**{"preset": "corrected", "time_limit": 30, **rules}))
    return Training(made, EmpathicDQN(members, made.planes, made.rules.others, config))


@pytest.mark.parametrize("world", ["coexistence", "sharing"])
@pytest.mark.parametrize("preset", ["published", "corrected"])
def test_a_member_learns_the_same_bits_alone(world, preset):
    """The whole trajectory: games, memory, weights, of a member among seven and by itself."""
    whole = make(world, preset=preset)
    train(whole)
    for m in (0, 4, 6):
        alone = make(world, [MEMBERS[m]], preset=preset)
        train(alone)
        ours, theirs = whole.memory.state(), alone.memory.state()
        assert np.array_equal(ours["bytes"][m], theirs["bytes"][0])
        assert np.array_equal(ours["floats"][m], theirs["floats"][0])
        assert torch.equal(whole.agent.flat[m :: len(MEMBERS)], alone.agent.flat)
        assert torch.equal(whole.agent.alone(m).flat, alone.agent.flat)


@pytest.mark.parametrize("stop_at", [1, 37, 60])
def test_an_interrupted_run_goes_on_with_the_same_bits(tmp_path, stop_at):
    straight, lines = make(), []
    train(straight, log_every=10, on_log=lambda step, told: lines.append((step, told)))

    checkpoints, first, said = Checkpoints(tmp_path), make(), []
    with pytest.raises(Interrupted):
        train(
            first,
            log_every=10,
            on_log=lambda step, told: said.append((step, told)),
            checkpoints=checkpoints,
            should_stop=lambda: first.agent.t >= stop_at,
        )
    assert [p.name for p in tmp_path.iterdir()] == [f"step-{stop_at:08d}.safetensors"]
    second = make()
    on_log = lambda step, told: said.append((step, told))  # noqa: E731
    train(second, log_every=10, on_log=on_log, checkpoints=checkpoints, resume=True)
    for ours, theirs in zip(straight.agent.state().values(), second.agent.state().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert np.array_equal(straight.memory.state()["bytes"], second.memory.state()["bytes"])
    assert said == lines


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(tmp_path):
    first = make()
    first.fill()
    first.save(Checkpoints(tmp_path))
    with pytest.raises(ValueError, match=r"of another run: .*selfishness"):
        make(members=[MemberConfig(selfishness=0.1, seed=0), *MEMBERS[1:]]).load(Checkpoints(tmp_path))
    with pytest.raises(ValueError, match=r"rules\.time_limit: 30 -> 31"):
        make(time_limit=31).load(Checkpoints(tmp_path))
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        make().load(Checkpoints(tmp_path))
    assert not make().load(Checkpoints(tmp_path / "nothing"))


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    training, checkpoints = make(), Checkpoints(tmp_path)
    training.fill()
    training.save(checkpoints)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("matryo.empathy.train.checkpoint.save_file", full)
    training.step()
    with pytest.raises(OSError, match="free some, then resume"):
        training.save(checkpoints)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000000.safetensors"]


def remembered(preset, world="coexistence", **rules):
    """All transitions of random play, in order, with the true next views, to look things up in."""
    config = LearnConfig(steps=1, prefill=400, buffer=1000, hidden=8)
    training = make(world, [MemberConfig(seed=3)], config, preset=preset, **rules)
    training.fill()
    size = training.memory.cells
    state = training.memory.state()
    rows, floats = state["bytes"][0], state["floats"][0]
    obs, following = rows[:, :size], rows[:, size : 3 * size].reshape(-1, 2, size)
    action, kills, terminated = rows[:, -3], rows[:, -2], rows[:, -1]
    return obs, following, action, kills, terminated, floats[:, 0], floats[:, 1]


def test_what_is_remembered_follows_from_step_to_step():
    obs, following, _, _, terminated, reward, _ = remembered("corrected", time_limit=500)
    goes_on = ~terminated.astype(bool)
    assert terminated.any()
    assert np.array_equal(following[:-1, 0][goes_on[:-1]], obs[1:][goes_on[:-1]])
    assert (reward == 1).all()


def test_corrected_rules_mask_the_dead_and_the_end():
    _, following, _, kills, terminated, _, shares = remembered("corrected", time_limit=500)
    assert kills.any() and terminated.any()
    assert not shares[kills.astype(bool)].any() and not shares[terminated.astype(bool)].any()
    dead = ~following[:, 1].any(1)
    assert dead[kills.astype(bool)].all()
    assert np.array_equal(shares == 0, dead | terminated.astype(bool))


def test_published_rules_mask_nothing_and_show_the_next_game_after_the_end():
    _, following, _, kills, terminated, _, shares = remembered("published", time_limit=500)
    assert (shares == 1).all()
    assert not following[kills.astype(bool), 1].any()
    over = np.flatnonzero(terminated)
    start = np.zeros((5, 5), dtype=np.uint8)
    start[2, 2] = 5  # the other at the top left of a new game, the learner out of its sight
    assert len(over) and (following[over, 1] == start.reshape(-1)).all()


@pytest.mark.parametrize(("preset", "terminal"), [("published", True), ("corrected", False)])
def test_the_time_limit_is_a_terminal_only_as_published(preset, terminal):
    config = LearnConfig(steps=1, prefill=40, batch_size=8, hidden=8)
    training = make("sharing", [MemberConfig()], config, preset=preset, time_limit=10)
    training.fill()
    assert bool(training.memory.state()["bytes"][0, 9, -1]) == terminal


def test_memory_keeps_the_newest_and_samples_all_of_them():
    from matryo.empathy.envs import Streams

    training = make(config=LearnConfig(steps=60, prefill=40, buffer=50, batch_size=8, hidden=8), world="coexistence")
    train(training)
    memory = training.memory
    assert memory.added == 100 and len(memory) == 50
    stream = Streams([1] * len(MEMBERS))
    batch = memory.sample(stream.uniform(5000))
    rows = {row.tobytes() for row in np.concatenate([batch.obs[0], batch.next_views[0].reshape(5000, -1)], axis=1)}
    held = {row[:-3].tobytes() for row in memory.state()["bytes"][0]}
    assert rows == held


def test_saved_agents_come_back_the_same(tmp_path):
    training = make()
    train(training)
    save_agent(training.agent, tmp_path / "a.safetensors")
    back = load_agent(tmp_path / "a.safetensors")
    assert torch.equal(back.flat, training.agent.flat)
    assert back.members == training.agent.members and back.config == training.agent.config
    (tmp_path / "b.safetensors").write_bytes(b"\x80\\x04nothing")
    with pytest.raises(ValueError, match="is no saved ensemble"):
        load_agent(tmp_path / "b.safetensors")


def test_an_agent_learns_what_states_are_worth():
    """Three steps, then the end: the worth of a state is one to three, as what is to come looks alike from afar."""
    config = LearnConfig(
        steps=400, prefill=200, epsilon_steps=1, gamma=1.0, target_every=20, hidden=16, lr=3e-3, batch_size=16
    )
    world = make_world("coexistence", make_rules("published", time_limit=2))
    training = Training(world, EmpathicDQN([MemberConfig(selfishness=1.0)], 1, 1, config))
    train(training)
    q = training.agent.values(training.views[:, 0])[0]
    assert q.min() >= 1 and q.max() <= 3.3
