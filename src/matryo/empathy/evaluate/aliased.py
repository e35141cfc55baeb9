"""Empathic Q-learning with one table row for each observation: the same algorithm without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from matryo.empathy.envs import N_ACTIONS, Streams
from matryo.empathy.evaluate.chain import CoexistenceChain


def learn_tables(
    chain: CoexistenceChain,
    selfishness: Sequence[float],
    seeds: Sequence[int],
    transitions: int = 500_000,
    games: int = 20,
    gamma: float = 0.99,
    on_step: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Q_emp tables (members, observations, 5) of what the learner sees in Coexistence, where many states look alike.

        Q(o, a)     += α (r + γ (1 − d) Q_T(o', argmax Q(o', ·)) − Q(o, a))
        Q_emp(o, a) += α (β y_self + (1 − β) γ max Q_T(o'_other, ·) − Q_emp(o, a))

    ε falls from 1 to 0.05 over the first half, α from 0.1 to 0.004, Q_T is copied every ten steps of all games. By the
    corrected rules o'_other counts 0 where the other is dead or the learner has died. By the published ones a dead
    other's all-zero view is never trained on; it stands here for seeing nobody. After a death it is the other's first
    view of the next game.

    Args:
        chain: Coexistence, by the rules that count.
        selfishness: β of each member.
        seeds: Seed of each member, as many.
        transitions: How many each member learns from.
        games: Games each member plays side by side.
        gamma: Discount.
        on_step: Called after every step of all games.
    """
    members = len(selfishness)
    alone = int(chain.seen[chain.start])  # a dead other looks like one out of sight
    beta = np.repeat(np.asarray(selfishness, dtype=float), games)
    q = np.zeros((members, int(chain.seen.max()) + 1, N_ACTIONS))
    q_emp, target = q.copy(), q
    streams = Streams.named([seed * 1_000_003 + g for seed in seeds for g in range(games)], "aliased")
    m, n = np.repeat(np.arange(members), games), members * games
    state, dead, age = np.full(n, chain.start), np.zeros(n, dtype=bool), np.zeros(n, dtype=int)
    for t in range(steps := transitions // games):
        if t % 10 == 0:
            target = q.copy()
        epsilon = max(0.05, 1 - 0.95 * t / (steps / 2))
        alpha = 0.1 * min(1.0, 0.04 + 2 * (1 - t / steps) ** 2)
        draws = streams.uniform(3)
        obs = np.where(dead, alone, chain.seen[state])
        mine = np.where(draws[:, 0] < epsilon, (draws[:, 1] * N_ACTIONS).astype(int), q_emp[m, obs].argmax(1))
        others = (draws[:, 2] * N_ACTIONS).astype(int)
        died, killed = chain.died[state, mine, others] & ~dead, chain.killed[state, mine, others] & ~dead
        then, gone = chain.then[state, mine, others], dead | killed
        after = np.where(gone, alone, chain.seen[then])
        y_self = 1 + gamma * ~died * target[m, after, q[m, after].argmax(1)]
        seat, counts = _other_seat(chain, then, died, gone, alone)
        v_other = gamma * counts * target[m, seat].max(1)
        y_emp = beta * y_self + (1 - beta) * v_other
        for table, y in ((q, y_self), (q_emp, y_emp)):
            _descend(table, m, obs, mine, y, alpha)
        age += 1
        again = died | (age >= chain.horizon)
        state, dead = np.where(again, chain.start, then), gone & ~again
        age[again] = 0
        on_step()
    return q_emp


def _other_seat(
    chain: CoexistenceChain, then: np.ndarray, died: np.ndarray, gone: np.ndarray, alone: int
) -> tuple[np.ndarray, np.ndarray]:
    """The observation from the other's seat after a step, and whether its value counts."""
    rules = chain.world.rules
    seat = np.where(gone, alone, chain.seen[chain.swapped[then]])
    if rules.other_obs_of_next_episode:
        seat = np.where(died, chain.seen[chain.swapped[chain.start]], seat)
    return seat, (~gone | rules.dead_other_counts) & (~died | rules.final_other_counts)


def _descend(
    table: np.ndarray, m: np.ndarray, obs: np.ndarray, action: np.ndarray, y: np.ndarray, alpha: float
) -> None:
    """Move each entry towards the mean of its targets in this step, by 1 − (1 − α)^count."""
    at = np.ravel_multi_index((m, obs, action), table.shape)
    count = np.bincount(at, minlength=table.size)
    total = np.bincount(at, y, minlength=table.size)
    hit = count > 0
    flat = table.reshape(-1)
    rate = 1 - (1 - alpha) ** count[hit]
    flat[hit] += rate * (total[hit] / count[hit] - flat[hit])
