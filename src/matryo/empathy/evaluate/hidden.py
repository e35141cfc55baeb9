"""What a Q-network's hidden layer does while its agent plays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from matryo.empathy.envs import N_ACTIONS, Streams, World

See = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Hidden activations (games, width) and greedy actions (games,) from the learner's views (games, planes, 5, 5)."""


def collect_hidden(
    world: World, see: See, rows: int, games: int = 64, epsilon: float = 0.1, seed: int = 0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Play side by side until there are `rows` activations: (rows, width) float32, and what they belong to.

    The second part has, for each row, the learner's view, the action taken, the cells of all agents, who is alive, the
    coins held, and the game and step it is of.
    """
    streams = Streams.named(range(games), "activations", seed)
    state = world.start(streams.uniform(world.start_draws))
    found, about, count = [], [], 0
    while count < rows:
        views = world.views(state)[:, 0]
        hidden, greedy = see(views)
        draws = streams.uniform(2 + world.script_draws + world.start_draws)
        action = np.where(draws[:, 0] < epsilon, (draws[:, 1] * N_ACTIONS).astype(np.int64), greedy)
        found.append(hidden.astype(np.float32))
        about.append((views, action, state.cells, state.alive, state.held, np.arange(games), state.step))
        count += games
        script = world.script(state, draws[:, 2 : 2 + world.script_draws])
        outcome = world.advance(state, np.concatenate([action[:, None], script], axis=1))
        ended = outcome.terminated | outcome.truncated
        state = world.restart(outcome.state, ended, draws[ended, 2 + world.script_draws :])
    names = ("view", "action", "cells", "alive", "coins", "game", "step")
    parts = {name: np.concatenate(column)[:rows] for name, column in zip(names, zip(*about, strict=True), strict=True)}
    return np.concatenate(found)[:rows], parts
