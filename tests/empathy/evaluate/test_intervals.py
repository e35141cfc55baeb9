"""Interval estimates against brute force and against what is known of the estimators."""

import itertools

import numpy as np
import pytest

from matryo.empathy.envs import make_world
from matryo.empathy.evaluate import (
    Episodes,
    compare,
    cumulative_incidence,
    estimate,
    interquartile_mean,
    mean_over_runs,
    paired_difference,
    play,
    probability_of_improvement,
    summarise,
)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10, 11])
def test_interquartile_mean_against_scipys_trim_mean(n):
    stats = pytest.importorskip("scipy.stats")
    scores = np.random.default_rng(n).normal(size=(n, 3))
    assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))


def test_the_bootstrap_against_every_resample_of_four_runs():
    scores = np.array([0.0, 1.0, 4.0, 9.0])
    every = np.array([np.mean(c) for c in itertools.product(scores, repeat=4)])
    found = estimate(scores, mean_over_runs, resamples=40_000)
    assert found.value == scores.mean()
    for ours, share in ((found.low, 0.025), (found.high, 0.975)):
        assert abs((every <= ours + 1e-9).mean() - share) < 0.02 or abs((every < ours - 1e-9).mean() - share) < 0.02


def test_runs_are_resampled_within_each_task():
    """Two tasks without spread of their own: a stratified bootstrap has no spread at all."""
    scores = np.array([[0.0, 10.0]] * 6)
    assert estimate(scores, mean_over_runs) == estimate(scores[:2], mean_over_runs)
    assert estimate(scores, mean_over_runs).high == 5.0


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        found = estimate(rng.normal(size=20), mean_over_runs, resamples=400)
        hits += not found.excludes(0)
    assert 0.87 < hits / 300 < 0.98


def test_probability_of_improvement_against_counting():
    a, b = np.array([1.0, 2.0, 2.0, 5.0]), np.array([2.0, 0.0, 3.0])
    count = sum(1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in b)
    assert probability_of_improvement(a, b).value == pytest.approx(count / 12)
    assert probability_of_improvement(a + 100, b).low == 1.0


def test_a_paired_difference_uses_the_pairs():
    base = np.array([0.0, 10.0, 20.0, 30.0])
    found = paired_difference(base + 1, base)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="4 and 3 seeds"):
        paired_difference(base, base[:3])


def test_cumulative_incidence_counts_an_early_death_as_never():
    kills, deaths = np.array([2, 0, 0, 4]), np.array([0, 1, 0, 0])
    assert cumulative_incidence(kills, 5).tolist() == [0, 0, 0.25, 0.25, 0.5, 0.5]
    assert cumulative_incidence(deaths, 5).tolist() == [0, 0.25, 0.25, 0.25, 0.25, 0.25]


def make_episodes(values):
    values = np.array(values, dtype=float)
    return Episodes(**dict.fromkeys(Episodes.__dataclass_fields__, values))


def test_groups_and_paired_comparisons():
    members = [("b1", 1), ("b1", 0), ("b0.5", 0), ("b0.5", 1), ("b0.5", 2), ("random", 0)]
    groups = summarise(members, make_episodes([[4, 6], [1, 3], [0, 2], [2, 2], [9, 9], [3, 5]]))
    assert groups["b1"].seeds == (0, 1) and groups["b1"].per_seed["steps"] == (2.0, 5.0)
    found = compare(groups, "b1")
    assert {c.group for c in found} == {"b0.5"}  # one seed is no comparison
    kills = next(c for c in found if c.metric == "others_killed")
    assert kills.difference.value == pytest.approx(((2 - 1) + (5 - 2)) / 2) and kills.seeds == 2
    assert kills.improvement.value == pytest.approx(3.5 / 4)  # fewer kills are better: 1 < 2, 1 < 5, 2 = 2, 2 < 5
    assert compare(groups, "none") == []


def test_played_episodes_are_told_as_a_plain_loop_tells_them():
    """Sharing with a fixed policy: every game again, alone, step by step."""
    from matryo.empathy.envs import Streams

    world = make_world("sharing")

    def policy(views):
        return (views.reshape(*views.shape[:2], -1).astype(int).sum(-1) * np.array([[1], [3]])) % 5

    found = play(world, policy, 2, 6, seed=3)
    for m, e in itertools.product(range(2), range(6)):
        game = Streams.named([e], "evaluation", 3)
        state, total, over = world.start(game.uniform(1)), 0.0, False
        while not over:
            view = int(world.views(state)[0, 0].astype(int).sum())
            action = view * (1, 3)[m] % 5
            script = world.script(state, game.uniform(world.script_draws))
            outcome = world.advance(state, np.array([[action, script[0, 0]]]))
            state, total = outcome.state, total + outcome.reward[0]
            over = outcome.terminated[0] or outcome.truncated[0]
        assert found.steps[m, e] == state.step[0]
        assert found.total[m, e] == pytest.approx(total)
        assert [found.coins[m, e], found.other_coins[m, e]] == state.held[0].tolist()
        assert found.equality[m, e] == world.equality(state)[0]


def test_kills_and_deaths_of_played_episodes_are_told_once():
    world = make_world("coexistence")
    found = play(world, lambda views: np.full(views.shape[:2], 0), 1, 200, epsilon=0.5)
    assert set(np.unique(found.others_killed)) == {0, 1}
    assert np.array_equal(found.kill_step > 0, found.others_killed > 0)
    dead = found.got_killed > 0
    assert dead.any() and (found.steps[dead] <= 500).all() and (found.steps[~dead] == 500).all()
    assert (found.total == found.steps).all()
    assert not (dead & (found.others_killed > 0)).any()  # with the other gone nothing can happen to it
