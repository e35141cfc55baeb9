"""One game of one member, move by move, with what it thought of every move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from matryo.empathy.envs import N_ACTIONS, Outcome, State, Streams, World

Values = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Q and Q_emp, (1, 5) each, of the learner's view (1, planes, 5, 5)."""


@dataclass(frozen=True)
class Frame:
    """A state, and the move that was made in it; the last has none."""

    state: State
    action: int | None
    own: np.ndarray
    "(5,) Q: the value to itself"
    empathic: np.ndarray
    "(5,) Q_emp: what it acts on"
    other: np.ndarray | None
    "(5,) the other's part, (Q_emp − β Q)/(1 − β); None for β = 1, where Q_emp has none"
    killed: bool
    "somebody was killed in the step that led here"


@dataclass(frozen=True)
class Recording:
    """A game."""

    title: str
    world: World
    frames: tuple[Frame, ...]
    ending: str


def record(
    world: World,
    title: str,
    values: Values,
    selfishness: float,
    seed: int = 0,
    epsilon: float = 0.0,
    longest: int | None = None,
) -> Recording:
    """Play one game greedily (or ε-greedily) and keep every frame.

    Args:
        world: The gridworld.
        title: What the game is called.
        values: The agent's.
        selfishness: Its β, to tell the other's part of Q_emp.
        seed: Of the game: every agent meets the same one.
        epsilon: Share of random moves.
        longest: Steps after which recording stops; the world's limit when not given.
    """
    game = Streams.named([seed], "replay")
    state, frames, killed, ending = world.start(game.uniform(world.start_draws)), [], False, "cut off"
    for _ in range(longest or world.limit + 1):
        draws = game.uniform(world.script_draws + 2)[0]
        thought = _think(world, state, values, selfishness)
        action = int(draws[-1] * N_ACTIONS) if draws[-2] < epsilon else int(thought[1].argmax())
        frames.append(Frame(state, action, *thought, killed))
        script = world.script(state, draws[None, : world.script_draws])
        outcome = world.advance(state, np.concatenate([[[action]], script], axis=1))
        state, killed = outcome.state, bool(outcome.killed.any() or outcome.got_killed.any())
        if outcome.terminated[0] or outcome.truncated[0]:
            ending = _ending(outcome, world)
            break
    frames.append(Frame(state, None, *_think(world, state, values, selfishness), killed))
    return Recording(title, world, tuple(frames), ending)


def _think(
    world: World, state: State, values: Values, selfishness: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    own, empathic = (x[0] for x in values(world.views(state)[:, 0]))
    return own, empathic, None if selfishness >= 1 else (empathic - selfishness * own) / (1 - selfishness)


def _ending(outcome: Outcome, world: World) -> str:
    if outcome.got_killed[0]:
        return "the learner died"
    if world.has_coins and not outcome.state.coins.any():
        return "no coin is left"
    return "the time is over"
