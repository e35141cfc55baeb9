"""The same worlds through Gymnasium and PettingZoo: their checkers, autoreset, seeding, pictures, refusals."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from pettingzoo.test import parallel_api_test, parallel_seed_test

from matryo.empathy.envs import GridworldEnv, GridworldParallelEnv, GridworldVectorEnv, make_rules, make_world

CASES = [(world, rules) for world in ("coexistence", "sharing") for rules in ("published", "corrected")]
each = pytest.mark.parametrize(("world", "rules"), CASES)


@each
def test_gymnasiums_checker_passes(world, rules, capsys):
    made = gymnasium.make(f"matryo/{world.capitalize()}-v0", rules=rules)
    assert made.spec is not None
    check_env(made.unwrapped)  # all render modes too


@each
def test_pettingzoos_checkers_pass(world, rules, capsys):
    parallel_api_test(GridworldParallelEnv(world, rules), num_cycles=300)
    parallel_seed_test(lambda: GridworldParallelEnv(world, rules), num_cycles=50)


@each
def test_every_render_mode(world, rules, capsys):
    shown = {}
    for mode in ("rgb_array", "ansi", "human"):
        env = GridworldEnv(world, rules, render_mode=mode)
        env.reset(seed=0)
        env.step(4)
        shown[mode] = env.render()
    assert shown["rgb_array"].shape == (281, 281, 3) and shown["rgb_array"].dtype == np.uint8
    assert len(np.unique(shown["rgb_array"].reshape(-1, 3), axis=0)) > 4
    assert shown["ansi"].count("L") + shown["ansi"].count("*") == 1
    assert shown["human"] is None and "step 1" in capsys.readouterr().out


def test_the_parallel_environment_renders(capsys):
    shown = {}
    for mode in ("rgb_array", "ansi", "human"):
        env = GridworldParallelEnv("sharing", render_mode=mode)
        env.reset(seed=1)
        shown[mode] = env.render()
    assert shown["rgb_array"].shape == (281, 281, 3)
    assert "coins [0, 0]" in shown["ansi"]
    assert shown["human"] is None and "step 0" in capsys.readouterr().out


@each
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_vector_environment_plays_the_games_of_the_single_one(world, rules, mode):
    """One game: the same seed gives the same draws, so the same games, whatever the autoreset."""
    rules = make_rules(rules, time_limit=9)
    single, vector = GridworldEnv(world, rules), GridworldVectorEnv(1, world, rules, mode)
    assert vector.metadata["autoreset_mode"] is mode
    obs, info = single.reset(seed=5)
    views, infos = vector.reset(seed=5)
    rng, ends = np.random.default_rng(0), 0
    for _ in range(60):
        assert np.array_equal(views[0], obs)
        assert np.array_equal(infos["other_obs"][0], info["other_obs"])
        action = int(rng.integers(5))
        obs, reward, terminated, truncated, info = single.step(action)
        views, rewards, over, late, infos = vector.step(np.array([action]))
        assert (rewards[0], over[0], late[0]) == (reward, terminated, truncated)
        assert bool(infos["got_killed"][0]) == info["got_killed"]
        assert np.array_equal(infos["other_counts"][0], info["other_counts"])
        if terminated or truncated:
            ends += 1
            last = infos["final_obs"] if mode is AutoresetMode.SAME_STEP else views
            assert np.array_equal(last[0], obs)
            if mode is AutoresetMode.SAME_STEP:
                assert infos["_final_obs"][0]
                assert np.array_equal(infos["final_info"]["other_obs"][0], info["other_obs"])
                assert infos["final_info"]["equality"][0] == info["equality"]
            if mode is AutoresetMode.NEXT_STEP:
                single.np_random.random((1, single.world.script_draws))  # the step whose action is passed over
                views, rewards, over, late, infos = vector.step(np.array([action]))
                assert rewards[0] == 0 and not over[0] and not late[0]
            if mode is AutoresetMode.DISABLED:
                with pytest.raises(gymnasium.error.ResetNeeded):
                    vector.step(np.array([action]))
                views, infos = vector.reset(options={"reset_mask": np.array([True])})
            obs, info = single.reset()
    assert ends >= 3


@each
def test_rows_of_a_batch_are_games_of_their_own(world, rules):
    env = gymnasium.make_vec(f"matryo/{world.capitalize()}-v0", num_envs=50, rules=rules)
    views, _ = env.reset(seed=1)
    assert env.observation_space.contains(views)
    rng, ended = np.random.default_rng(2), 0
    for _ in range(120):
        views, _, over, late, infos = env.step(rng.integers(0, 5, 50))
        assert views.shape == (50, *env.single_observation_space.shape)
        assert infos["other_obs"].shape == (50, 1, *env.single_observation_space.shape)
        gone = over | late
        ended += gone.sum()
        if gone.any():
            assert not infos["final_obs"][~gone].any() and infos["final_obs"][gone].any(axis=(1, 2, 3)).all()
    assert ended > 3


def test_the_same_seed_gives_the_same_games():
    def games(seed):
        env = GridworldVectorEnv(6, "coexistence")
        return [env.reset(seed=seed)[0].tobytes()] + [env.step(np.full(6, 1))[0].tobytes() for _ in range(20)]

    assert games(3) == games(3) != games(4)


def test_another_gridworld_in_one_file(tmp_path, monkeypatch):
    """The example of the docs page, as it stands there."""
    page = Path(__file__).parents[3] / "docs" / "empathy" / "worlds.md"
    code = page.read_text(encoding="utf-8").split('```python title="corridor.py"\n')[1].split("```")[0]
    (tmp_path / "corridor.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    world = make_world("corridor:Corridor")
    env = GridworldEnv("corridor:Corridor")
    check_env(env, skip_render_check=True)
    parallel_api_test(GridworldParallelEnv(world), num_cycles=100)
    assert world.name == "corridor"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GridworldEnv("coexistense"), "unknown env 'coexistense': did you mean 'coexistence'"),
        (lambda: GridworldEnv(rules="publisht"), "rules is 'publisht'"),
        (lambda: GridworldEnv(others=0), "others is 0; expected 1 or more"),
        (lambda: GridworldEnv(size=4), "size is 4"),
        (lambda: GridworldEnv(render_mode="rgb"), "render_mode 'rgb'"),
        (lambda: GridworldEnv("nowhere:Garden"), "cannot be imported"),
        (lambda: GridworldEnv("json:JSONDecoder"), "expected a class that is a matryo.empathy.envs.World"),
        (lambda: GridworldVectorEnv(0), "num_envs is 0"),
        (lambda: GridworldVectorEnv(2).reset(seed=[1, 2]), "seed is a list of 2"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_wrong_actions_are_refused():
    env, many = GridworldEnv(), GridworldVectorEnv(3)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    env.reset()
    many.reset()
    with pytest.raises(ValueError, match="action is 5; expected 0 to 4"):
        env.step(5)
    with pytest.raises(ValueError, match="actions have shape"):
        many.step(np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match="no action for other_0"):
        parallel = GridworldParallelEnv()
        parallel.reset()
        parallel.step({"learner": 1})
