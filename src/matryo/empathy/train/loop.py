"""The training loop: every member plays one game and takes one update a step, all in lockstep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from matryo.empathy.agents import EmpathicDQN
from matryo.empathy.envs import State, Streams, World
from matryo.empathy.replay import ReplayRing, Transitions
from matryo.empathy.swap import share
from matryo.empathy.train.checkpoint import Checkpoints
from matryo.empathy.train.tally import Tally
from matryo.spine.config import diff, to_dict

STATE = ("step", "cells", "alive", "shown", "held", "coins")


class Interrupted(Exception):  # noqa: N818 - not an error: everything is saved
    """Training was asked to stop; a checkpoint has been written."""


class Training:
    """An ensemble, its games, its memory and its random streams; `step` moves all of it on by one.

    Member m's numbers depend on its seed and config alone: its game, exploration, samples and weights each have their
    own stream, so that it learns the same bits alone and in any ensemble on the same machine, however many threads
    share the members.
    """

    def __init__(self, world: World, agent: EmpathicDQN) -> None:
        self.world, self.agent, self.config = world, agent, agent.config
        seeds, self.count = [member.seed for member in agent.members], len(agent.members)
        self.games, self.samples = Streams.named(seeds, "games"), Streams.named(seeds, "samples")
        cells = int(np.prod(agent.view))
        room = min(self.config.buffer, self.config.prefill + self.config.steps)
        self.memory = ReplayRing(self.count, room, cells, world.rules.others)
        self.tally = Tally(self.count, world)
        self.state, self.views = self._begin()

    def _begin(self) -> tuple[State, np.ndarray]:
        state = self.world.start(self.games.uniform(self.world.start_draws))
        return state, self.world.views(state)

    def act(self, epsilon: float | None = None) -> None:
        """Every member acts once in its game and remembers what came of it; games that end begin anew."""
        world = self.world
        action = self.agent.select_action(self.views[:, 0], epsilon)
        draws = self.games.uniform(world.script_draws + world.start_draws)
        script = world.script(self.state, draws[:, : world.script_draws])
        outcome = world.advance(self.state, np.concatenate([action[:, None], script], axis=1))
        views, ended = world.views(outcome.state), outcome.terminated | outcome.truncated
        shares = share(world.counted(outcome), world.distances(outcome.state), self.config.aggregation)
        self.tally.add(outcome)
        following, state = views, outcome.state
        if ended.any():
            state = world.restart(state, ended, draws[ended, world.script_draws :])
            following = world.views(state)
            if world.rules.other_obs_of_next_episode:
                views = np.concatenate(
                    [views[:, :1], np.where(self._rows(outcome.terminated), following, views)[:, 1:]], axis=1
                )
        self.memory.add(
            Transitions(
                obs=self.views[:, :1].reshape(self.count, 1, -1),
                action=action[:, None],
                next_views=views.reshape(self.count, 1, world.agents, -1),
                share=shares[:, None],
                reward=outcome.reward[:, None],
                other_reward=outcome.other_reward[:, None],
                kills=outcome.killed.sum(1)[:, None],
                terminated=outcome.terminated[:, None],
            )
        )
        self.state, self.views = state, following

    def _rows(self, mask: np.ndarray) -> np.ndarray:
        return mask.reshape(-1, 1, 1, 1, 1)

    def fill(self, tell: Callable[[int], None] = lambda n: None) -> None:
        """Fill the memory with random steps, then begin games anew."""
        while self.memory.added < self.config.prefill:
            self.act(epsilon=1.0)
            tell(1)
        self.state, self.views = self._begin()
        self.tally = Tally(self.count, self.world)

    def step(self) -> dict[str, np.ndarray]:
        """Act once and update once; returns the losses of every member."""
        self.act()
        return self.agent.update(self.memory.sample(self.samples.uniform(self.config.batch_size)))

    def save(self, checkpoints: Checkpoints) -> None:
        """Write a checkpoint."""
        arrays = {f"state/{name}": getattr(self.state, name) for name in STATE}
        arrays |= {f"state/own/{name}": value for name, value in self.state.own.items()}
        arrays |= {f"memory/{name}": value for name, value in self.memory.state().items()}
        arrays |= {f"tally/{name}": value for name, value in self.tally.state().items()}
        arrays |= {f"{name}/counters": getattr(self, name).counters.astype(np.int64) for name in ("games", "samples")}
        tensors = {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}
        tensors |= {f"agent/{key}": value.contiguous() for key, value in self.agent.state().items()}
        checkpoints.write(self.agent.t, tensors, self._about())

    def load(self, checkpoints: Checkpoints) -> bool:
        """Go to the newest checkpoint; False if there is none.

        Raises:
            ValueError: it is damaged or of other members, rules or settings.
        """
        found = checkpoints.newest()
        if found is None:
            return False
        tensors, about = found
        if changes := diff(about, self._about()):
            raise ValueError(f"{checkpoints.folder} is of another run: {'; '.join(changes)}; resume it unchanged")

        def part(prefix: str) -> dict[str, Any]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        state = {key: value.numpy() for key, value in part("state/").items()}
        own = {key.removeprefix("own/"): value for key, value in state.items() if key.startswith("own/")}
        self.state = State(**{name: state[name] for name in STATE}, own=own)
        self.views = self.world.views(self.state)
        self.memory.restore({key: value.numpy() for key, value in part("memory/").items()})
        self.tally.restore({key: value.numpy() for key, value in part("tally/").items()})
        for name in ("games", "samples"):
            getattr(self, name).counters = tensors[f"{name}/counters"].numpy().astype(np.uint64)
        self.agent.restore(part("agent/"))
        return True

    def _about(self) -> dict[str, Any]:
        about = {
            "world": self.world.name,
            "rules": self.world.rules,
            "members": self.agent.members,
            "learn": self.config,
        }
        return {key: to_dict(value) for key, value in about.items()}


def train(
    training: Training,
    *,
    log_every: int = 1000,
    on_log: Callable[[int, dict[str, float]], None] | None = None,
    on_step: Callable[[int], None] = lambda n: None,
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int = 50_000,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train an ensemble to its end.

    Args:
        training: The ensemble and its games.
        log_every: Steps between calls of `on_log`.
        on_log: Called with the step and, by "member/number", what happened since the last call: means over the episodes
            that ended (absent where none did) and over the updates. It may evaluate the agent.
        on_step: Called with the number of steps just taken.
        checkpoints: Where to write checkpoints.
        checkpoint_every: Steps between them.
        resume: Go on from the newest checkpoint, with the same bits as without an interruption.
        should_stop: Asked after every step; when true a checkpoint is written and `Interrupted` raised.

    Raises:
        Interrupted: `should_stop` said so.
        OSError: a checkpoint could not be written.
    """
    agent, config = training.agent, training.config
    if not (resume and checkpoints and training.load(checkpoints)):
        training.fill(on_step)
    while agent.t < config.steps:
        losses = training.step()
        training.tally.learned(losses)
        on_step(1)
        if (agent.t % log_every == 0 or agent.t == config.steps) and on_log:
            names = [member.name for member in agent.members]
            on_log(agent.t, training.tally.take(names))
        stop = should_stop() and agent.t < config.steps
        if checkpoints and (stop or agent.t % checkpoint_every == 0):
            training.save(checkpoints)
        if stop:
            raise Interrupted
