"""Agents that learn nothing: random, and one written by hand that harms nobody."""

from __future__ import annotations

import itertools

import numpy as np

from matryo.empathy.envs.rules import N_ACTIONS, WINDOW
from matryo.empathy.envs.streams import Streams
from matryo.empathy.envs.world import MOVES
from matryo.empathy.replay import Transitions

STAY = 4
SAFE = 2
"""Steps (Manhattan) between two agents at which no weapon reaches, whatever is below."""


class RandomAgent:
    """Every action with probability 1/5."""

    def __init__(self, seed: int = 0) -> None:
        self.stream = Streams.named([seed], "random agent")

    def select_action(self, obs: np.ndarray, epsilon: float | None = None) -> np.ndarray:
        """Draw an action for each view of (…, planes, 5, 5)."""
        shape = obs.shape[:-3]
        return (self.stream.uniform(int(np.prod(shape))).reshape(shape) * N_ACTIONS).astype(np.int64)

    def update(self, batch: Transitions) -> dict[str, np.ndarray]:
        """Nothing is learned."""
        return {}


class HarmlessAgent:
    """Coexistence without killing and without dying, with probability 1.

    A weapon reaches one step. If after staying no other it sees could come closer than two steps, it stays; else it
    takes the move after which the closest they could come is farthest. With one other on a torus of 7 or more, two
    steps are kept for ever: from two steps away one can go to three, and from three or unseen the other needs a step
    to come to two.
    """

    def __init__(self) -> None:
        middle = WINDOW // 2
        self.nearest = np.empty((WINDOW * WINDOW, N_ACTIONS))
        "(25, actions) how near an other in that cell of the view can be after my action and any of its own, in steps"
        for cell, action in itertools.product(range(WINDOW * WINDOW), range(N_ACTIONS)):
            row, column = divmod(cell, WINDOW)
            then = np.array([row - middle, column - middle]) + MOVES - MOVES[action]
            self.nearest[cell, action] = np.abs(then).sum(1).min()

    def select_action(self, obs: np.ndarray, epsilon: float | None = None) -> np.ndarray:
        """Choose for each view of (…, planes, 5, 5)."""
        seen = obs[..., 0, :, :].reshape(-1, WINDOW * WINDOW) > 0
        seen[:, WINDOW * WINDOW // 2] = False  # itself
        closest = np.where(seen[:, :, None], self.nearest, np.inf).min(1)
        action = np.where(closest[:, STAY] >= SAFE, STAY, closest.argmax(1))
        return action.reshape(obs.shape[:-3])

    def update(self, batch: Transitions) -> dict[str, np.ndarray]:
        """Nothing is learned."""
        return {}
