"""Exact answers for Coexistence: against simulation, the plain rules, and what can be said beforehand."""

import sys
from pathlib import Path

import numpy as np
import pytest

from matryo.empathy.agents import HarmlessAgent, RandomAgent
from matryo.empathy.envs import Coexistence, Streams, make_rules
from matryo.empathy.evaluate import CoexistenceChain, learn_tables, play

sys.path.insert(0, str(Path(__file__).parents[1] / "envs"))
import twins  # pyright: ignore[reportMissingImports]

BOTH = ("published", "corrected")


@pytest.fixture(scope="module", params=BOTH)
def chain(request):
    return CoexistenceChain(Coexistence(make_rules(request.param)))


def simulate_random(world, episodes, seed):
    """Whole games of the random policy, no views: steps and kills, and the games that still go on are kept only."""
    rng = np.random.default_rng(seed)
    state = world.start(np.empty((episodes, 0)))
    on = np.arange(episodes)
    steps, kills = np.zeros(episodes), np.zeros(episodes)
    while len(on):
        actions = rng.integers(0, 5, (len(on), 2))
        outcome = world.advance(state, actions)
        steps[on] += 1
        kills[on] += outcome.killed[:, 0]
        goes_on = ~(outcome.terminated | outcome.truncated)
        # where the other is dead nothing can happen any more: the rest of the time is survived
        safe = goes_on & ~outcome.state.alive[:, 1]
        steps[on[safe]] += world.limit + world.rules.one_step_more - outcome.state.step[safe]
        keep = goes_on & ~safe
        on = on[keep]
        state = type(state)(
            *(getattr(outcome.state, k)[keep] for k in ("step", "cells", "alive", "shown", "held", "coins")), {}
        )
    return steps, kills


def test_the_random_policy_over_100_000_episodes_agrees_with_the_exact_chain(chain):
    exact, n = chain.outcome(chain.uniform()), 100_000
    steps, kills = simulate_random(chain.world, n, seed=12)
    assert abs(steps.mean() - exact.steps) < 4 * exact.steps_sd / n**0.5
    assert abs(kills.mean() - exact.killed) < 4 * (exact.killed * (1 - exact.killed) / n) ** 0.5
    assert steps.std() == pytest.approx(exact.steps_sd, rel=0.01)
    if not chain.world.rules.weapons_wrap:  # the published rules: the reference's own figures
        assert exact.steps == pytest.approx(225, abs=1)
        assert exact.killed == pytest.approx(0.418, abs=0.001)


def test_the_random_agent_played_as_agents_are_agrees_too(chain):
    exact, n = chain.outcome(chain.uniform()), 2_000
    agent = RandomAgent(4)
    found = play(chain.world, lambda views: agent.select_action(views), 2, n // 2)
    for value, mean, deviation in (
        (found.steps, exact.steps, exact.steps_sd),
        (found.others_killed, exact.killed, (exact.killed * (1 - exact.killed)) ** 0.5),
        (found.got_killed, exact.got_killed, (exact.got_killed * (1 - exact.got_killed)) ** 0.5),
    ):
        assert abs(value.mean() - mean) < 4 * deviation / n**0.5


def test_the_chain_of_a_policy_against_a_dense_matrix_of_the_plain_rules(chain):
    """A deterministic policy, 60 steps: probabilities pushed through the rules in plain Python."""
    published = not chain.world.rules.weapons_wrap
    rng = np.random.default_rng(3)
    actions = rng.integers(0, 5, chain.n)
    there, killed, died = {(24, 0): 1.0}, 0.0, 0.0
    for _ in range(60):
        new = {}
        for (mine, its), p in there.items():
            for other_action in range(5):
                action = int(actions[mine * 49 + its])
                a, b, gone, kill = twins.coexistence(
                    divmod(mine, 7), divmod(its, 7), True, action, other_action, published
                )
                if gone or kill:
                    died, killed = died + gone * p / 5, killed + kill * p / 5
                else:
                    key = (a[0] * 7 + a[1], b[0] * 7 + b[1])
                    new[key] = new.get(key, 0.0) + p / 5
        there = new
    exact = chain.outcome(chain.of_views(actions))
    assert exact.killed_by[60] == pytest.approx(killed, abs=1e-12)
    assert exact.got_killed_by[60] == pytest.approx(died, abs=1e-12)


def test_the_harmless_policy_survives_and_kills_nobody(chain):
    agent = HarmlessAgent()
    exact = chain.outcome(chain.of_views(agent.select_action(chain.views)))
    assert (exact.killed, exact.got_killed) == (0.0, 0.0)
    assert exact.steps == pytest.approx(chain.horizon)
    found = play(chain.world, lambda views: agent.select_action(views), 1, 30)
    assert found.steps.min() == chain.horizon and not found.others_killed.any()


def test_value_iteration_solves_the_bellman_equation(chain):
    q, values = chain.action_values()
    for s in np.random.default_rng(0).integers(0, chain.n, 40).tolist():
        for action in range(5):
            expected = 0.0
            for other in range(5):
                died, killed = chain.died[s, action, other], chain.killed[s, action, other]
                after = 0.0 if died else 100.0 if killed else values[chain.then[s, action, other]]
                expected += (1 + 0.99 * after) / 5
            assert q[s, action] == pytest.approx(expected, abs=1e-7)
    assert values.max() <= 100 + 1e-6


def test_the_selfish_optimum_survives_and_kills(chain):
    exact = chain.outcome(chain.greedy(chain.empathic_values(1.0)))
    assert exact.steps > chain.horizon - 0.5
    assert exact.killed > 0.99


def test_full_state_empathy_kills_nobody_by_the_corrected_rules():
    chain = CoexistenceChain(Coexistence())
    for beta in (0.25, 0.5, 0.9):
        exact = chain.outcome(chain.greedy(chain.empathic_values(beta)))
        assert exact.killed < 1e-3 and exact.steps > 499


def test_swapping_full_states_twice_changes_nothing(chain):
    assert np.array_equal(chain.swapped[chain.swapped], np.arange(chain.n))
    learner, other = np.divmod(np.arange(chain.n), 49)
    assert np.array_equal(chain.swapped, other * 49 + learner)


def test_epsilon_mixes_in_random_moves(chain):
    q = chain.empathic_values(1.0)
    policy = chain.greedy(q, 0.1)
    assert np.allclose(policy.sum(1), 1)
    assert policy.min() == pytest.approx(0.02)


def test_tables_learn_to_survive_and_members_do_not_depend_on_company():
    chain = CoexistenceChain(Coexistence(make_rules("published")))
    tables = learn_tables(chain, [1.0, 0.5], [0, 0], transitions=60_000, games=20)
    alone = learn_tables(chain, [0.5], [0], transitions=60_000, games=20)
    assert np.array_equal(tables[1], alone[0])
    assert tables.shape == (2, 25, 5)
    assert chain.outcome(chain.greedy(tables[0][chain.seen])).steps > 300  # random: 225


def test_more_than_one_other_has_no_chain():
    with pytest.raises(ValueError, match="others is 2"):
        CoexistenceChain(Coexistence(make_rules(others=2)))


def test_streams_do_not_depend_on_company_and_are_uniform():
    many, one = Streams.named(range(2000), "x"), Streams.named([7], "x")
    a, b = many.uniform(50), one.uniform(50)
    assert np.array_equal(a[7], b[0])
    assert np.array_equal(many.uniform(3)[7], one.uniform(3)[0])
    assert a.mean() == pytest.approx(0.5, abs=4 * (1 / 12 / a.size) ** 0.5)
    counts = np.bincount((a.reshape(-1) * 10).astype(int), minlength=10)
    assert np.all(np.abs(counts - a.size / 10) < 4.5 * (a.size * 0.09) ** 0.5)
    assert abs(np.corrcoef(a[:, 0], a[:, 1])[0, 1]) < 4 / 2000**0.5
    assert abs(np.corrcoef(a[:-1].reshape(-1), a[1:].reshape(-1))[0, 1]) < 4 / a.size**0.5
