"""Exact answers for Sharing: against games by the plain rules, simulation, and every play to the end."""

import copy
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from matryo import cli
from matryo.empathy.envs import Sharing, make_rules
from matryo.empathy.evaluate import SharingGraph, play

sys.path.insert(0, str(Path(__file__).parents[1] / "envs"))
import twins  # pyright: ignore[reportMissingImports]

GAMMA = 0.99
LEARNER, OTHER = 0, 1
"""Positions of the first layer: who begins."""


@pytest.fixture(scope="module")
def graph():
    return SharingGraph(Sharing())


def follow(graph, policy, begins, game):
    """Play a policy's first best action to the end, in the graph and in the plain game; the rewards of both agents."""
    at, rewards = begins, []
    for layer, probabilities in zip(graph.layers, policy, strict=True):
        action = int(probabilities[at].argmax())
        mine, theirs, over = game.step(action)
        assert (mine, theirs) == pytest.approx((layer.reward[at, action], layer.other_reward[at, action]))
        rewards.append((mine, theirs))
        assert over == (layer.then[at, action] < 0)
        if over:
            told = len(rewards), game.held["learner"], game.held["other"]
            assert layer.told[:3, at, action].tolist() == list(told)
            return rewards
        at = layer.then[at, action]
    raise AssertionError("the layers end before the game")


@pytest.mark.parametrize("begins", [LEARNER, OTHER])
def test_any_play_goes_as_by_the_plain_rules(graph, begins):
    rng = np.random.default_rng(begins)
    for _ in range(40):
        policy = [rng.random(layer.then.shape) for layer in graph.layers]
        follow(graph, policy, begins, twins.SharingGame(learner_first=begins == LEARNER))


def best_by_trying(game, share):
    """Σ γ^t (β r + (1 − β) r′) of the best of all plays to the end."""
    values = []
    for action in range(5):
        after = copy.deepcopy(game)
        mine, theirs, over = after.step(action)
        values.append(share * mine + (1 - share) * theirs + (0 if over else GAMMA * best_by_trying(after, share)))
    return max(values)


@pytest.mark.parametrize("share", [1.0, 0.6, 0.5, 0.3, 0.0])
def test_the_best_play_of_the_last_steps_is_the_best_of_all_plays(graph, share):
    """Positions of which at most five more steps are left, reached at random."""
    policy, rng = graph.best(share, GAMMA), np.random.default_rng(7)
    for begins in (LEARNER, OTHER):
        game, at = twins.SharingGame(learner_first=begins == LEARNER), begins
        for layer in graph.layers[:45]:
            # nothing is taken: of the plays that last, those that stay out of the sweep's way
            lasting = [a for a in range(5) if layer.reward[at, a] == 0]
            action = int(rng.choice(lasting))
            game.step(action)
            at = layer.then[at, action]
        expected, value, weight = best_by_trying(game, share), 0.0, 1.0
        for layer, probabilities in zip(graph.layers[45:], policy[45:], strict=True):
            action = int(probabilities[at].argmax())
            value += weight * (share * layer.reward[at, action] + (1 - share) * layer.other_reward[at, action])
            weight, at = weight * GAMMA, layer.then[at, action]
            if at < 0:
                break
        assert value == pytest.approx(expected, abs=1e-12)


def test_what_is_known_beforehand(graph):
    """Alone all nine coins are worth 5.4; shared by true rewards, nine coins are worth most as 5 and 4."""
    selfish, half, other = (graph.outcome(graph.best(share)) for share in (1.0, 0.5, 0.0))
    assert (selfish.coins, selfish.other_coins, selfish.total) == pytest.approx((9, 0, 5.4))
    assert selfish.equality == pytest.approx(0)
    assert (half.coins, half.other_coins) == pytest.approx((5, 4))
    assert half.equality == pytest.approx(2 * 3.4 / 7.4)
    assert (other.coins, other.other_coins) == pytest.approx((0, 9))


def test_the_learner_and_the_other_begin_equally_often(graph):
    plays = [follow(graph, graph.best(1.0), b, twins.SharingGame(learner_first=b == LEARNER)) for b in (LEARNER, OTHER)]
    assert graph.outcome(graph.best(1.0)).steps == pytest.approx(np.mean([len(one) for one in plays]))


@pytest.mark.parametrize("rules", ["published", "corrected"])
def test_the_random_policy_agrees_with_its_episodes(rules):
    world, n = Sharing(make_rules(rules)), 4_000
    graph = SharingGraph(world)
    exact = graph.outcome(graph.uniform())
    rng = np.random.default_rng(3)
    found = play(world, lambda views: rng.integers(0, 5, views.shape[:2]), 1, n, seed=1)
    for name in ("steps", "coins", "other_coins", "equality", "total"):
        values = getattr(found, name)[0]
        assert abs(values.mean() - getattr(exact, name)) < 4 * values.std() / n**0.5, name


def test_random_moves_count(graph):
    """At ε = 1 the best policy is the random one; ε in between lies between."""
    none, some, all_ = (graph.outcome(graph.best(1.0, epsilon=e)).coins for e in (0.0, 0.3, 1.0))
    assert all_ == pytest.approx(graph.outcome(graph.uniform()).coins)
    assert all_ < some < none


def test_what_is_too_large_is_refused():
    for rules, pattern in (
        (make_rules("corrected", size=9), "size is 9"),
        (make_rules("corrected", others=2), "others is 2"),
    ):
        with pytest.raises(ValueError, match=pattern):
            SharingGraph(Sharing(rules))


def test_the_command_prints_and_writes_the_same_numbers(tmp_path, graph, capsys):
    assert cli.run(shlex.split(f"empathy exact --env sharing --selfishness 0.5 --epsilon 0 --runs {tmp_path}")) == 0
    told = json.loads((tmp_path / "latest" / "exact.json").read_text())
    assert told["env"] == "sharing"
    random, half = told["policies"]
    assert (random["policy"], half["policy"]) == ("random", "true reward, β = 0.5")
    assert random["coins"] == [pytest.approx(graph.outcome(graph.uniform()).coins)]
    assert (half["coins"], half["other_coins"]) == ([pytest.approx(5)], [pytest.approx(4)])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("true reward, β = 0.5"))
    assert line.split()[-4:] == ["5", "4", "0.9189", "4"]
