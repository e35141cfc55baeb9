"""What happened in the games of an ensemble since the last line of metrics."""

from __future__ import annotations

import numpy as np

from matryo.empathy.envs import Outcome, World

EPISODE = ("return", "steps", "others_killed", "got_killed", "coins", "other_coins", "equality")
"""What is told of an episode."""


class Tally:
    """Sums over the episodes that ended, for each of M members, and over its updates."""

    def __init__(self, members: int, world: World) -> None:
        self.world = world
        self.running = np.zeros((2, members))
        "(2, M) the return and the kills of the episode under way"
        self.sums = np.zeros((len(EPISODE), members))
        self.episodes = np.zeros(members)
        self.losses = np.zeros((2, members))
        self.updates = np.zeros(1)

    def add(self, outcome: Outcome) -> None:
        """Count one step of every game."""
        self.running += outcome.reward, outcome.killed.sum(1)
        ended = outcome.terminated | outcome.truncated
        if ended.any():
            state = outcome.state
            held = (state.held[:, 0], state.held[:, 1:].mean(1))
            told = (
                *self.running[:1],
                state.step,
                self.running[1],
                outcome.got_killed,
                *held,
                self.world.equality(state),
            )
            self.sums += np.where(ended, np.stack(told), 0)
            self.episodes += ended
            self.running[:, ended] = 0

    def learned(self, losses: dict[str, np.ndarray]) -> None:
        """Count one update."""
        self.losses += losses["loss"], losses["loss_emp"]
        self.updates += 1

    def take(self, names: list[str]) -> dict[str, float]:
        """Means since the last call, by "member/number", and begin anew."""
        told: dict[str, float] = {}
        for m, name in enumerate(names):
            told |= {f"{name}/{key}": self.losses[i, m] / self.updates[0] for i, key in enumerate(("loss", "loss_emp"))}
            told[f"{name}/episodes"] = self.episodes[m]
            if self.episodes[m]:
                told |= {f"{name}/{key}": self.sums[i, m] / self.episodes[m] for i, key in enumerate(EPISODE)}
        for sums in (self.sums, self.episodes, self.losses, self.updates):
            sums[...] = 0
        return {key: float(value) for key, value in told.items()}

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint needs."""
        names = ("running", "sums", "episodes", "losses", "updates")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go back to where `state` was taken."""
        for name, value in state.items():
            getattr(self, name)[...] = value
