"""Coexistence: transitions worked out by hand, and every one of 2,401 × 25 against a plain twin."""

import sys
from pathlib import Path

import numpy as np
import pytest

from matryo.empathy.envs import Coexistence, make_rules

sys.path.insert(0, str(Path(__file__).parent))
import twins  # pyright: ignore[reportMissingImports]

DOWN, UP, RIGHT, LEFT, STAY = range(5)
BOTH = ("published", "corrected")


def place(world, learner, *others, alive=True, size=7):
    cells = np.array([[r * size + c for r, c in (learner, *others)]])
    state = world.begin(cells)
    if not alive:
        state.alive[:, 1:] = False
        state.shown[:, 1:] = False
    return state


def after(world, learner, other, action, other_action, **where):
    outcome = world.advance(place(world, learner, other, **where), np.array([[action, other_action]]))
    return outcome, bool(outcome.got_killed[0]), bool(outcome.killed[0, 0])


# learner, other, their actions, rules it holds for → (learner died, other killed); all worked out by hand
TABLE = {
    "other steps below me": ((3, 3), (5, 3), STAY, UP, BOTH, (False, True)),
    "other steps to my right": ((3, 3), (3, 5), STAY, LEFT, BOTH, (False, True)),
    "other steps above me": ((3, 3), (1, 3), STAY, DOWN, BOTH, (True, False)),
    "other steps to my left": ((3, 3), (3, 1), STAY, RIGHT, BOTH, (True, False)),
    "I step above it": ((3, 3), (5, 3), DOWN, STAY, BOTH, (False, True)),
    "I step below it": ((3, 3), (1, 3), UP, STAY, BOTH, (True, False)),
    "both step towards each other, past": ((3, 3), (4, 3), DOWN, UP, BOTH, (True, False)),
    "diagonal is out of reach": ((3, 3), (4, 4), STAY, STAY, BOTH, (False, False)),
    "same cell, weapon first, down": ((3, 3), (4, 3), DOWN, STAY, BOTH, (False, False)),
    "same cell, weapon first, right": ((3, 3), (3, 4), RIGHT, STAY, BOTH, (False, False)),
    "same cell, up, published": ((3, 3), (2, 3), UP, STAY, BOTH[:1], (True, False)),
    "same cell, left, published": ((3, 3), (3, 2), LEFT, STAY, BOTH[:1], (True, False)),
    "same cell, stay, published": ((3, 3), (2, 3), STAY, DOWN, BOTH[:1], (True, False)),
    "same cell, up, corrected": ((3, 3), (2, 3), UP, STAY, BOTH[1:], (False, False)),
    "same cell, stay, corrected": ((3, 3), (2, 3), STAY, DOWN, BOTH[1:], (False, False)),
    "my weapon across the border, published": ((6, 2), (0, 2), STAY, STAY, BOTH[:1], (False, False)),
    "my weapon across the border, corrected": ((6, 2), (0, 2), STAY, STAY, BOTH[1:], (False, True)),
    "its weapon across the border, published": ((2, 0), (2, 6), STAY, STAY, BOTH[:1], (False, False)),
    "its weapon across the border, corrected": ((2, 0), (2, 6), STAY, STAY, BOTH[1:], (True, False)),
    "movement wraps, then I hit": ((0, 4), (1, 4), UP, UP, BOTH[1:], (False, True)),
    "movement wraps, then I cannot hit": ((0, 4), (1, 4), UP, UP, BOTH[:1], (False, False)),
    "I come out above it": ((6, 4), (1, 4), DOWN, STAY, BOTH, (False, True)),
}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_hand_computed_transitions(case):
    learner, other, action, other_action, rulesets, expected = case
    for preset in rulesets:
        outcome, died, killed = after(Coexistence(make_rules(preset)), learner, other, action, other_action)
        assert (died, killed) == expected, preset
        assert outcome.reward[0] == 1.0  # also on the step in which it dies
        assert outcome.terminated[0] == died and not outcome.truncated[0]
        assert outcome.state.alive[0].tolist() == [not died, not killed]


@pytest.mark.parametrize("preset", BOTH)
def test_a_dead_other_harms_nobody_and_is_not_killed_again(preset):
    world = Coexistence(make_rules(preset))
    for other, other_action in (((1, 3), DOWN), ((5, 3), UP)):
        _, died, killed = after(world, (3, 3), other, STAY, other_action, alive=False)
        assert not died and not killed


@pytest.mark.parametrize("preset", BOTH)
def test_every_transition_agrees_with_the_plain_twin(preset):
    world = Coexistence(make_rules(preset))
    cells = [(r, c) for r in range(7) for c in range(7)]
    cases = [(a, b, x, y) for a in cells for b in cells for x in range(5) for y in range(5)]
    state = world.begin(np.array([[a[0] * 7 + a[1], b[0] * 7 + b[1]] for a, b, _, _ in cases]))
    outcome = world.advance(state, np.array([[x, y] for *_, x, y in cases]))
    found = zip(outcome.state.cells.tolist(), outcome.got_killed.tolist(), outcome.killed[:, 0].tolist(), strict=True)
    for (a, b, x, y), (at, died, killed) in zip(cases, found, strict=True):
        learner, other, twin_died, twin_killed = twins.coexistence(a, b, True, x, y, preset == "published")
        assert at == [learner[0] * 7 + learner[1], other[0] * 7 + other[1]]
        assert (died, killed) == (twin_died, twin_killed), (a, b, x, y)


def test_with_several_others_death_comes_first_and_all_in_reach_are_killed():
    world = Coexistence(make_rules(others=3))
    still = np.full((1, 4), STAY)
    outcome = world.advance(place(world, (3, 3), (4, 3), (3, 4), (0, 0)), still)
    assert outcome.killed.tolist() == [[True, True, False]]
    outcome = world.advance(place(world, (3, 3), (4, 3), (2, 3), (0, 0)), still)
    assert outcome.got_killed[0] and not outcome.killed.any()
    outcome = world.advance(place(world, (0, 0), (4, 3), (4, 4), (3, 4)), still)
    assert not outcome.killed.any() and not outcome.got_killed[0]  # others do not harm each other


@pytest.mark.parametrize(("preset", "last"), [("published", 501), ("corrected", 500)])
def test_the_end_of_time(preset, last):
    world = Coexistence(make_rules(preset))
    state, steps = world.start(np.empty((1, 0))), 0
    state.alive[:, 1:] = False
    while True:
        outcome = world.advance(state, np.full((1, 2), STAY))
        state, steps = outcome.state, steps + 1
        if outcome.terminated[0] or outcome.truncated[0]:
            break
    assert steps == last
    assert bool(outcome.terminated[0]) == (preset == "published")


@pytest.mark.parametrize("preset", BOTH)
def test_views_agree_with_the_plain_twin(preset):
    world, rng = Coexistence(make_rules(preset)), np.random.default_rng(1)
    cells = rng.integers(0, 49, (300, 2))
    cells[:20, 1] = cells[:20, 0]
    for (a, b), views in zip(cells.tolist(), world.views(world.begin(cells)), strict=True):
        board = {divmod(a, 7): 5}
        board[divmod(b, 7)] = 5 + (board.get(divmod(b, 7), 0) if preset == "corrected" else 0)
        assert views[0, 0].tolist() == twins.view(board, divmod(a, 7))
        assert views[1, 0].tolist() == twins.view(board, divmod(b, 7))


@pytest.mark.parametrize(("preset", "distinct"), [("published", 25), ("corrected", 26)])
def test_number_of_distinct_observations(preset, distinct):
    world = Coexistence(make_rules(preset))
    grid = np.stack(np.meshgrid(np.arange(49), np.arange(49), indexing="ij"), axis=-1).reshape(-1, 2)
    alone = place(world, (3, 3), (0, 0), alive=False)
    seen = {v.tobytes() for v in world.views(world.begin(grid))[:, 0]} | {world.views(alone)[0, 0].tobytes()}
    assert len(seen) == distinct


@pytest.mark.parametrize("preset", BOTH)
def test_what_is_seen_of_a_killed_other(preset):
    world = Coexistence(make_rules(preset))
    outcome, _, killed = after(world, (3, 3), (5, 3), STAY, UP)
    assert killed
    mine, its = world.views(outcome.state)[0]
    assert mine[0, 3, 2] == (5 if preset == "published" else 0)
    assert not its.any()
    later = world.advance(outcome.state, np.full((1, 2), STAY))
    assert world.views(later.state)[0, 0].sum() == 5
    assert bool(world.counted(later)[0, 0]) == (preset == "published")


def test_positions_of_the_start():
    state = Coexistence().start(np.empty((2, 0)))
    assert state.cells.tolist() == [[24, 0], [24, 0]]
    many = Coexistence(make_rules(others=7)).start(np.empty((1, 0))).cells[0]
    assert len(set(many.tolist())) == 8
    assert not {17, 31, 23, 25} & set(many.tolist())
