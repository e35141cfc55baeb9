"""Sharing as the graph of all positions that can be reached, step by step: exact outcomes, and the best play."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from matryo.empathy.envs import N_ACTIONS, Sharing, State

LARGEST = 7
"""Rows of the largest torus: from 9 on there are 16 coins, and too many positions to be held in memory."""


@dataclass(frozen=True)
class ExactShares:
    """What a policy comes to in Sharing, over one episode, without sampling: expectations."""

    steps: float
    "steps until no coin is left"
    coins: float
    "coins of the learner"
    other_coins: float
    "coins of the other"
    equality: float
    "2·min(R, R′)/(R + R′) at the end"
    total: float
    "the learner's return, undiscounted"


@dataclass(frozen=True)
class Layer:
    """The n positions that can be reached in so many steps, and what each action leads to, (n, 5) arrays."""

    state: State
    then: np.ndarray
    "number of the position in the next layer; −1 where the game is over"
    reward: np.ndarray
    other_reward: np.ndarray
    told: np.ndarray
    "(4, n, 5) steps, coins, the other's coins and equality after the action"


class SharingGraph:
    """All positions of a game of Sharing that some play leads to, in layers by the number of steps.

    Nothing in Sharing is random but who begins, and the sweep is a function of the step: a few hundred thousand
    positions in 50 layers on 7 × 7 cells.

    Raises:
        ValueError: the rules have several others, or a torus of more than 7 × 7 cells.
    """

    def __init__(self, world: Sharing) -> None:
        if world.rules.others != 1:
            raise ValueError(f"others is {world.rules.others}; expected 1: the graph has one other")
        if world.rules.size > LARGEST:
            raise ValueError(f"size is {world.rules.size}; expected at most {LARGEST}: more coins, too many positions")
        self.world = world
        self.layers: list[Layer] = []
        state = world.start(np.array([[0.0], [1.0]]))  # the learner begins in one, the other in the other
        while len(state.step):
            state = self._follow(state)

    def _follow(self, state: State) -> State:
        n, world = len(state.step), self.world
        repeated = _rows(state, np.repeat(np.arange(n), N_ACTIONS))
        actions = np.tile(np.arange(N_ACTIONS), n)
        script = world.script(repeated, np.empty((len(actions), 0)))
        outcome = world.advance(repeated, np.concatenate([actions[:, None], script], axis=1))
        after, over = outcome.state, outcome.terminated | outcome.truncated
        going = np.flatnonzero(~over)
        _, first, number = np.unique(_codes(_rows(after, going)), return_index=True, return_inverse=True)
        then = np.full(len(over), -1)
        then[going] = number
        told = np.stack([after.step, after.held[:, 0], after.held[:, 1], world.equality(after)])
        shape = (n, N_ACTIONS)
        self.layers.append(
            Layer(
                state,
                then.reshape(shape),
                outcome.reward.reshape(shape),
                outcome.other_reward[:, 0].reshape(shape),
                told.reshape(4, *shape),
            )
        )
        return _rows(after, going[first])

    def best(self, share: float, gamma: float = 0.99, epsilon: float = 0.0) -> list[np.ndarray]:
        """The best policy, (n, 5) for each layer, of one that is paid β r + (1 − β) r′ and knows board and sweep.

        Q_t(s, a) = β r + (1 − β) r′ + γ max_a' Q_{t+1}(s', a'), backwards from the end. r′ is the other's true reward,
        as of the `true_reward` agent: what empathy could come to, not what Empathic DQN learns from. All the best
        actions are taken alike, any action at rate ε.
        """
        values, policies = np.zeros(0), []
        for layer in reversed(self.layers):
            after = np.append(values, 0.0)[layer.then]
            q = share * layer.reward + (1 - share) * layer.other_reward + gamma * after
            values = q.max(1)
            best = q >= values[:, None] - 1e-9
            policies.append((1 - epsilon) * best / best.sum(1, keepdims=True) + epsilon / N_ACTIONS)
        return policies[::-1]

    def uniform(self) -> list[np.ndarray]:
        """The random policy."""
        return [np.full(layer.then.shape, 1 / N_ACTIONS) for layer in self.layers]

    def outcome(self, policy: Sequence[np.ndarray]) -> ExactShares:
        """What a policy, (n, 5) probabilities of actions for each layer, comes to; who begins is a fair draw."""
        there, ends, total = np.full(2, 0.5), np.zeros(4), 0.0
        for layer, probabilities in zip(self.layers, policy, strict=True):
            flow = there[:, None] * probabilities
            total += float((flow * layer.reward).sum())
            over = layer.then < 0
            ends += (layer.told * (flow * over)).sum((1, 2))
            goes_on = ~over
            there = np.bincount(layer.then[goes_on], flow[goes_on], minlength=layer.then.max(initial=-1) + 1)
        steps, coins, other_coins, equality = ends.tolist()
        return ExactShares(steps, coins, other_coins, equality, total)


def _rows(state: State, rows: np.ndarray) -> State:
    names = ("step", "cells", "alive", "shown", "held", "coins")
    return State(**{name: getattr(state, name)[rows] for name in names}, own={k: v[rows] for k, v in state.own.items()})


def _codes(state: State) -> np.ndarray:
    """One number for each position: where both stand, what both hold, where coins lie. Who began matters no more."""
    code = np.zeros(len(state.step), dtype=np.int64)
    for column in (state.coins.T, state.cells.T, state.held.T):
        for part in column:
            code = code * (int(part.max(initial=0)) + 1) + part
    return code
