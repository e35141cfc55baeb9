"""Sharing: coins, turns and the sweep, worked out by hand and against a plain twin; equality of every split."""

import sys
from pathlib import Path

import numpy as np
import pytest

from matryo.empathy.envs import Sharing, make_rules

sys.path.insert(0, str(Path(__file__).parent))
import twins  # pyright: ignore[reportMissingImports]

DOWN, UP, RIGHT, LEFT, STAY = range(5)
FIRST, SECOND = np.array([[0.2]]), np.array([[0.7]])


def act(world, state, action):
    script = world.script(state, np.empty((1, 0)))
    return world.advance(state, np.concatenate([[[action]], script], axis=1))


def test_the_board_of_the_start():
    state = Sharing().start(FIRST)
    assert np.flatnonzero(state.coins[0]).tolist() == [8, 10, 12, 22, 24, 26, 36, 38, 40]
    assert state.cells.tolist() == [[24, 24]]
    assert state.held.tolist() == [[0, 0]]


def test_staying_takes_the_start_coin_for_one():
    world = Sharing()
    outcome = act(world, world.start(FIRST), STAY)
    assert outcome.reward[0] == 1.0 and outcome.state.held.tolist() == [[1, 0]]
    assert outcome.state.cells.tolist() == [[24, 24]]  # the other is frozen in step 0


def test_moving_off_leaves_the_start_coin():
    world = Sharing()
    outcome = act(world, world.start(FIRST), UP)
    assert outcome.reward[0] == 0 and outcome.state.coins[0, 24]


def test_when_the_other_is_first_the_learner_is_frozen_and_takes_the_coin_later():
    world = Sharing()
    outcome = act(world, world.start(SECOND), UP)
    assert outcome.state.cells.tolist() == [[24, 17]]  # the sweep's step 0 is up
    assert outcome.reward[0] == 0 and outcome.state.coins[0, 24]
    assert act(world, outcome.state, STAY).reward[0] == 1.0


def test_a_tie_goes_to_the_learner():
    world = Sharing()
    state = world.start(FIRST)
    state = act(world, state, STAY).state
    state.cells[0] = [9, 9]  # both left of the coin at (1, 3), and the sweep goes right
    outcome = act(world, state, RIGHT)
    assert outcome.state.cells.tolist() == [[10, 10]]
    assert outcome.state.held.tolist() == [[2, 0]]
    assert outcome.reward[0] == pytest.approx(0.9)


def test_coins_are_worth_less_and_less():
    world = Sharing()
    state = act(world, world.start(FIRST), STAY).state
    got = [1.0]
    for cell in (8, 10, 12, 22, 26, 36, 38, 40):
        state.cells[0] = [cell, 0]
        outcome = act(world, state, STAY)
        state = outcome.state
        got.append(float(outcome.reward[0]))
    assert got == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    assert outcome.terminated[0]


def test_the_path_of_the_sweep():
    world = Sharing()
    state, path = world.start(FIRST), []
    for _ in range(16):
        state = act(world, state, UP).state
        path.append(divmod(int(state.cells[0, 1]), 7))
    # frozen in step 0, then six steps right round the torus, up with step 7, six right, up with step 14
    row3 = [(3, c) for c in (4, 5, 6, 0, 1, 2)]
    row2 = [(2, 2), *[(2, c) for c in (3, 4, 5, 6, 0, 1)]]
    assert path == [(3, 3), *row3, *row2, (1, 1), (1, 2)]


@pytest.mark.parametrize(("draws", "steps"), [(FIRST, 41), (SECOND, 47)])
def test_a_learner_that_only_stays(draws, steps):
    world = Sharing(make_rules("published"))
    state, total = world.start(draws), 0.0
    while True:
        outcome = act(world, state, STAY)
        state, total = outcome.state, total + float(outcome.reward[0])
        if outcome.terminated[0]:
            break
    assert int(state.step[0]) == steps
    assert state.held.tolist() == [[1, 8]]
    assert total == pytest.approx(1.0)
    assert world.equality(state)[0] == pytest.approx(0.310, abs=5e-4)


@pytest.mark.parametrize("seed", range(20))
def test_whole_games_agree_with_the_plain_twin(seed):
    rng, world = np.random.default_rng(seed), Sharing(make_rules("published" if seed % 2 else "corrected"))
    draw = rng.random((1, 1))
    state, twin = world.start(draw), twins.SharingGame(bool(draw[0, 0] < 0.5))
    for _ in range(500):
        action = int(rng.integers(5))
        outcome = act(world, state, action)
        reward, other, over = twin.step(action)
        state = outcome.state
        assert (outcome.reward[0], outcome.other_reward[0, 0]) == pytest.approx((reward, other))
        assert [divmod(c, 7) for c in state.cells[0].tolist()] == [twin.at["learner"], twin.at["other"]]
        assert {divmod(int(c), 7) for c in np.flatnonzero(state.coins[0])} == twin.coins
        assert bool(outcome.terminated[0]) == over
        check_views(world, state, twin)
        if over:
            return


def check_views(world, state, twin):
    views = world.views(state)[0]
    agents = {twin.at["learner"]: 5 * (twin.held["learner"] + 1)}
    number = 5 * (twin.held["other"] + 1)
    for who, seen in zip(("learner", "other"), views, strict=True):
        if world.rules.separate_planes:
            both = agents | {twin.at["other"]: number + agents.get(twin.at["other"], 0)}
            assert seen[0].tolist() == twins.view(both, twin.at[who])
            assert seen[1].tolist() == twins.view(dict.fromkeys(twin.coins, 100), twin.at[who])
        else:
            board = dict.fromkeys(twin.coins, 255) | agents | {twin.at["other"]: number}
            assert seen[0].tolist() == twins.view(board, twin.at[who])


# split of nine coins → equality by the published totals and by the returns, worked out by hand:
# returns of 0 … 9 coins are 0, 1, 1.9, 2.7, 3.4, 4, 4.5, 4.9, 5.2, 5.4; published totals add 0.1 per coin
SPLITS = {
    (0, 9): (0.0, 0.0),
    (1, 8): (2 * 1.1 / 7.1, 2 * 1.0 / 6.2),
    (2, 7): (2 * 2.1 / 7.7, 2 * 1.9 / 6.8),
    (3, 6): (2 * 3.0 / 8.1, 2 * 2.7 / 7.2),
    (4, 5): (2 * 3.8 / 8.3, 2 * 3.4 / 7.4),
}


@pytest.mark.parametrize(("split", "expected"), SPLITS.items())
def test_equality_of_every_split_of_nine_coins(split, expected):
    for preset, value in zip(("published", "corrected"), expected, strict=True):
        world = Sharing(make_rules(preset))
        for held in (split, split[::-1]):
            state = world.start(FIRST)
            state.held[0] = held
            assert world.equality(state)[0] == pytest.approx(value)


def test_no_coins_at_all_is_equal():
    assert Sharing().equality(Sharing().start(FIRST))[0] == 1.0


@pytest.mark.parametrize(("preset", "terminal"), [("published", True), ("corrected", False)])
def test_the_time_limit(preset, terminal):
    world = Sharing(make_rules(preset, time_limit=3))
    state = world.start(FIRST)
    for _ in range(3):
        outcome = act(world, state, UP)
        state = outcome.state
    assert (bool(outcome.terminated[0]), bool(outcome.truncated[0])) == (terminal, not terminal)


def test_several_others_sweep_from_rows_of_their_own():
    world = Sharing(make_rules(others=3))
    state = world.start(SECOND)
    assert [divmod(c, 7) for c in state.cells[0].tolist()] == [(3, 3), (3, 3), (1, 3), (6, 3)]
    outcome = act(world, state, UP)
    assert [divmod(c, 7) for c in outcome.state.cells[0].tolist()] == [(3, 3), (2, 3), (0, 3), (5, 3)]
    assert outcome.other_reward.tolist() == [[0, 0, 1.0]]
