"""Coexistence as a Markov chain over full states: exact outcomes of policies, and exact values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from matryo.empathy.envs import N_ACTIONS, Coexistence


@dataclass(frozen=True)
class ExactOutcome:
    """What a policy comes to, over one episode, without sampling."""

    steps: float
    "expected steps survived"
    steps_sd: float
    "standard deviation of an episode's steps"
    killed: float
    "probability that the other is killed"
    got_killed: float
    "probability that the learner dies"
    killed_by: np.ndarray
    "(horizon + 1,) probability that the other was killed at or before each step"
    got_killed_by: np.ndarray
    "(horizon + 1,) the same of the learner"


class CoexistenceChain:
    """All n = size⁴ positions of learner and one living other, s = learner · size² + other.

    `then` (n, 5, 5) is the next position for each pair of actions, the learner's first; `died` and `killed` say how the
    step ends. Without the other nothing can happen any more.
    """

    def __init__(self, world: Coexistence) -> None:
        if world.rules.others != 1:
            raise ValueError(f"others is {world.rules.others}; expected 1: the exact chain has one other")
        self.world, cells = world, world.rules.size**2
        self.n = cells * cells
        learner, other = np.divmod(np.arange(self.n), cells)
        joint = np.stack(np.meshgrid(np.arange(N_ACTIONS), np.arange(N_ACTIONS), indexing="ij"), -1).reshape(-1, 2)
        state = world.begin(np.repeat(np.stack([learner, other], 1), len(joint), axis=0))
        outcome = world.advance(state, np.tile(joint, (self.n, 1)))
        shape = (self.n, N_ACTIONS, N_ACTIONS)
        self.then = (outcome.state.cells @ np.array([cells, 1])).reshape(shape)
        self.died, self.killed = outcome.got_killed.reshape(shape), outcome.killed[:, 0].reshape(shape)
        self.swapped = other * cells + learner
        "(n,) the state in which the two have changed places"
        start = world.start(np.empty((1, 0))).cells[0]
        self.start = int(start[0] * cells + start[1])
        views = world.views(world.begin(np.stack([learner, other], 1)))[:, 0]
        self.views = views
        "(n, 1, 5, 5) what the learner sees"
        _, self.seen = np.unique(views.reshape(self.n, -1), axis=0, return_inverse=True)
        "(n,) number of the observation"
        self.horizon = world.rules.time_limit + world.rules.one_step_more

    def outcome(self, policy: np.ndarray) -> ExactOutcome:
        """What a policy, (n, 5) probabilities of actions, comes to from the start."""
        weight = np.repeat(policy[:, :, None] / N_ACTIONS, N_ACTIONS, axis=2)
        die, kill = (weight * self.died).sum((1, 2)), (weight * self.killed).sum((1, 2))
        stay = (weight * ~(self.died | self.killed)).reshape(-1)
        then, source = self.then.reshape(-1), np.repeat(np.arange(self.n), N_ACTIONS**2)
        used = stay > 0
        stay, then, source = stay[used], then[used], source[used]
        there, killed_by, died_by = np.zeros(self.n), [0.0], [0.0]
        there[self.start] = 1.0
        for _ in range(self.horizon):
            killed_by.append(killed_by[-1] + float(there @ kill))
            died_by.append(died_by[-1] + float(there @ die))
            there = np.bincount(then, there[source] * stay, minlength=self.n)
        ends = np.diff(died_by)
        ends[-1] += 1 - died_by[-1]
        lasts = np.arange(1, self.horizon + 1)
        steps = float(ends @ lasts)
        spread = float(np.sqrt(max(ends @ lasts**2 - steps**2, 0.0)))
        return ExactOutcome(steps, spread, killed_by[-1], died_by[-1], np.array(killed_by), np.array(died_by))

    def action_values(self, gamma: float = 0.99, tolerance: float = 1e-10) -> tuple[np.ndarray, np.ndarray]:
        """Q(s, a) of the selfish optimum, (n, 5), and V(s): value iteration, without a time limit.

        V(s) = max_a mean_b [1 + γ V(s')], with V = 0 after the learner's death and 1/(1 − γ) after the other's.
        """
        alone, values = 1 / (1 - gamma), np.zeros(self.n)
        while True:
            after = np.where(self.died, 0.0, np.where(self.killed, alone, values[self.then]))
            q = 1 + gamma * after.mean(2)
            if np.abs(q.max(1) - values).max() < tolerance:
                return q, q.max(1)
            values = q.max(1)

    def empathic_values(self, selfishness: float, gamma: float = 0.99) -> np.ndarray:
        """Q_emp(s, a) = β Q(s, a) + (1 − β) γ mean_b V(the other's seat of s'), (n, 5).

        By the corrected rules a dead other's seat is worth 0, and so is any after the learner's death. By the published
        ones a dead other's is worth what it is to be alone, and after the learner's death what the next start is.
        """
        rules, (q, values) = self.world.rules, self.action_values(gamma)
        dead = 1 / (1 - gamma) if rules.dead_other_counts else 0.0
        seat = values[self.swapped[self.start]] if rules.other_obs_of_next_episode else values[self.swapped[self.then]]
        over = seat if rules.final_other_counts else 0.0
        there = np.where(self.died, over, np.where(self.killed, dead, values[self.swapped[self.then]]))
        return selfishness * q + (1 - selfishness) * gamma * there.mean(2)

    @staticmethod
    def greedy(values: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
        """The policy (n, 5) that takes the best action, all the best alike, and any action at rate ε."""
        best = values >= values.max(1, keepdims=True) - 1e-9
        return (1 - epsilon) * best / best.sum(1, keepdims=True) + epsilon / N_ACTIONS

    def uniform(self) -> np.ndarray:
        """The random policy."""
        return np.full((self.n, N_ACTIONS), 1 / N_ACTIONS)

    def of_views(self, actions: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
        """The policy that takes `actions` (n,), chosen from `views`."""
        return (1 - epsilon) * np.eye(N_ACTIONS)[actions] + epsilon / N_ACTIONS
