"""Evaluation episodes of many policies at once, apart from training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from matryo.empathy.envs import N_ACTIONS, Streams, World


@dataclass(frozen=True)
class Episodes:
    """What happened in M policies' episodes, E each: arrays (M, E)."""

    steps: np.ndarray
    "steps survived"
    total: np.ndarray
    "return, undiscounted"
    others_killed: np.ndarray
    "how many others the learner killed"
    got_killed: np.ndarray
    "1 where the learner died"
    coins: np.ndarray
    "coins the learner took"
    other_coins: np.ndarray
    "coins the others took, mean over them"
    equality: np.ndarray
    "2·min(R, R′)/(R + R′); 1 in a world without coins"
    kill_step: np.ndarray
    "step of the first kill, counted from 1; 0 where there was none"

    def __getitem__(self, member: int | slice | np.ndarray) -> Episodes:
        """Some of the policies."""
        return Episodes(*(getattr(self, f.name)[member] for f in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Episodes]) -> Episodes:
        """The policies of several, one after the other."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


Policy = Callable[[np.ndarray], np.ndarray]
"""Actions (M, E) from the learners' views (M, E, planes, 5, 5)."""


def play(
    world: World,
    policy: Policy,
    members: int,
    episodes: int,
    seed: int = 0,
    epsilon: float = 0.0,
    on_step: Callable[[], None] = lambda: None,
) -> Episodes:
    """Play `episodes` whole episodes with each of M policies.

    Episode e has the same random numbers for every policy, so that policies are compared in the same games.

    Args:
        world: The gridworld.
        policy: Gives all policies' actions at once.
        members: M.
        episodes: E.
        seed: Of the games.
        epsilon: Share of random actions.
        on_step: Called after each step.
    """
    games = Streams.named(range(episodes), "evaluation", seed)

    def draw(count: int) -> np.ndarray:
        return np.tile(games.uniform(count), (members, 1))

    state, shape = world.start(draw(world.start_draws)), (members, episodes)
    n = members * episodes
    on, total, kills = np.ones(n, dtype=bool), np.zeros(n), np.zeros(n, dtype=np.int64)
    died, kill_step, final = np.zeros(n, dtype=bool), np.zeros(n, dtype=np.int64), np.zeros((4, n))
    while on.any():
        views = world.views(state)[:, 0]
        action = policy(views.reshape(*shape, *views.shape[1:])).reshape(n)
        draws = draw(world.script_draws + (2 if epsilon else 0))
        if epsilon:
            explores, which = draws[:, -2], (draws[:, -1] * N_ACTIONS).astype(np.int64)
            action = np.where(explores < epsilon, which, action)
        script = world.script(state, draws[:, : world.script_draws])
        outcome = world.advance(state, np.concatenate([action[:, None], script], axis=1))
        state = outcome.state
        total += outcome.reward * on
        now = outcome.killed.sum(1) * on
        kill_step = np.where((kills == 0) & (now > 0), state.step, kill_step)
        kills, died = kills + now, died | (outcome.got_killed & on)
        ended = (outcome.terminated | outcome.truncated) & on
        if ended.any():
            told = (state.step, state.held[:, 0], state.held[:, 1:].mean(1), world.equality(state))
            final = np.where(ended, np.stack(told), final)
            on &= ~ended
        on_step()
    steps, coins, other_coins, equality = final
    made = Episodes(steps, total, kills, died, coins, other_coins, equality, kill_step)
    return Episodes(*(np.asarray(getattr(made, f.name), dtype=np.float64).reshape(shape) for f in fields(Episodes)))
