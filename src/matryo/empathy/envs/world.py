"""What the gridworlds share: a batch of them as arrays, movement on a torus, and what each agent sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from matryo.empathy.envs.rules import N_ACTIONS, WINDOW, RulesConfig

MOVES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (0, 0)])
COIN = 100
"""A coin's number on its own plane; learning divides by 100."""
PUBLISHED_COIN = 255
"""A coin on a shared plane: the published −1 as an unsigned byte."""


@dataclass(frozen=True)
class State:
    """A batch of n games; agent 0 is the learner, 1 … A−1 the others. Never changed in place."""

    step: np.ndarray
    "(n,) steps taken"
    cells: np.ndarray
    "(n, A) where each agent stands: row · size + column"
    alive: np.ndarray
    "(n, A)"
    shown: np.ndarray
    "(n, A) who is drawn"
    held: np.ndarray
    "(n, A) coins each agent holds"
    coins: np.ndarray
    "(n, size²) where coins lie"
    own: dict[str, np.ndarray] = field(default_factory=dict)
    "what only this world has, (n, …) each"


@dataclass(frozen=True)
class Outcome:
    """What a step led to, for a batch of n games with `others` other agents."""

    state: State
    reward: np.ndarray
    "(n,) the learner's"
    other_reward: np.ndarray
    "(n, others) what the others get: for controls and measures, no empathic agent sees it"
    terminated: np.ndarray
    "(n,) the game is over"
    truncated: np.ndarray
    "(n,) the time is over and the game is not"
    got_killed: np.ndarray
    "(n,) the learner died in this step"
    killed: np.ndarray
    "(n, others) who was killed in this step"


class World(ABC):
    """The rules of one gridworld, as pure functions of batches of states.

    A world says how a game starts (`start`), what the others do (`script`) and what a joint action leads to
    (`advance`); everything else is here. All three are deterministic but for the uniform numbers they are given.
    """

    name: ClassVar[str]
    has_coins: ClassVar[bool] = False
    has_weapons: ClassVar[bool] = False
    "whether agents are drawn with a weapon that reaches down and right"
    start_draws: ClassVar[int] = 0
    "uniform numbers that `start` uses for one game"

    def __init__(self, rules: RulesConfig | None = None) -> None:
        self.rules = rules = rules or RulesConfig()
        self.agents = 1 + rules.others
        self.limit = rules.time_limit
        size = rules.size
        row, column = np.divmod(np.arange(size * size), size)
        offset = np.arange(WINDOW) - WINDOW // 2
        rows, columns = (row[:, None] + offset) % size, (column[:, None] + offset) % size
        self.moved = (row[:, None] + MOVES[:, 0]) % size * size + (column[:, None] + MOVES[:, 1]) % size
        "(size², actions) the cell that a move leads to"
        self.seen = (rows[:, :, None] * size + columns[:, None, :]).reshape(size * size, WINDOW * WINDOW)
        "(size², 25) the cells seen from a cell"
        down, across = np.abs(row[:, None] - row), np.abs(column[:, None] - column)
        if rules.distance_wraps:
            down, across = np.minimum(down, size - down), np.minimum(across, size - across)
        self.apart = np.hypot(down, across)
        "(size², size²) Euclidean distance between two cells"

    @property
    def planes(self) -> int:
        """Planes of a view: agents, and coins where the world has them and rules give them their own."""
        return 2 if self.has_coins and self.rules.separate_planes else 1

    @property
    def script_draws(self) -> int:
        """Uniform numbers that `script` uses for one game."""
        return 0

    @property
    def centre(self) -> int:
        """The cell in the middle, where the learner starts."""
        return (self.rules.size // 2) * (self.rules.size + 1)

    @abstractmethod
    def start(self, draws: np.ndarray) -> State:
        """Begin as many games as there are rows of uniform numbers, (n, start_draws)."""

    @abstractmethod
    def script(self, state: State, draws: np.ndarray) -> np.ndarray:
        """What the others do of themselves: (n, others) actions, from (n, script_draws) uniform numbers."""

    @abstractmethod
    def advance(self, state: State, actions: np.ndarray) -> Outcome:
        """Take one step; `actions` is (n, A), the learner's first."""

    def begin(self, cells: np.ndarray, coins: np.ndarray | None = None, **own: np.ndarray) -> State:
        """A starting state from (n, A) cells; everyone is alive and holds nothing."""
        n, there = len(cells), np.ones(cells.shape, dtype=bool)
        coins = np.zeros((n, self.rules.size**2), dtype=bool) if coins is None else coins
        return State(
            np.zeros(n, dtype=np.int64), cells, there, there, np.zeros(cells.shape, dtype=np.int64), coins, own
        )

    def time_is_over(self, step: np.ndarray) -> np.ndarray:
        """Whether the limit is reached after so many steps."""
        return step >= self.limit

    def finish(self, state: State, over: np.ndarray, **told: np.ndarray) -> Outcome:
        """The outcome of a step that led to `state`; `over` says where the game is over, the rest is passed on."""
        n, others = state.alive.shape[0], self.rules.others
        late = self.time_is_over(state.step)
        if self.rules.time_limit_terminates:
            over, late = over | late, np.zeros(n, dtype=bool)
        told = {"got_killed": np.zeros(n, dtype=bool), "killed": np.zeros((n, others), dtype=bool)} | told
        return Outcome(state=state, terminated=over, truncated=late & ~over, **told)

    def restart(self, state: State, where: np.ndarray, draws: np.ndarray) -> State:
        """Replace the games that `where` marks by new ones, from (marked, start_draws) uniform numbers."""
        return self.put(state, where, self.start(draws)) if where.any() else state

    def put(self, state: State, where: np.ndarray, fresh: State) -> State:
        """Replace the games that `where` marks by those of `fresh`, in order."""

        def replaced(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            old = old.copy()
            old[where] = new
            return old

        names = ("step", "cells", "alive", "shown", "held", "coins")
        own = {key: replaced(old, fresh.own[key]) for key, old in state.own.items()}
        return State(**{name: replaced(getattr(state, name), getattr(fresh, name)) for name in names}, own=own)

    def views(self, state: State) -> np.ndarray:
        """What each agent sees, itself in the middle: (n, A, planes, 5, 5) uint8; zeros for the dead.

        An agent is 5·(coins it holds + 1). Every view is the same board about another cell, so that giving the views to
        each other exchanges the agents' seats.
        """
        boards = self._boards(state)
        n, planes, cells = boards.shape
        seen = self.seen[state.cells]
        at = seen + (np.arange(n) * (planes * cells))[:, None, None]
        flat = boards.reshape(-1)
        out = np.empty((n, self.agents, planes, WINDOW * WINDOW), dtype=np.uint8)
        for plane in range(planes):
            out[:, :, plane] = flat.take(at + plane * cells if plane else at)
        if not state.alive[:, 1:].all():
            out[:, 1:] *= state.alive[:, 1:, None, None]
        return out.reshape(n, self.agents, planes, WINDOW, WINDOW)

    def _boards(self, state: State) -> np.ndarray:
        n = len(state.step)
        game = np.arange(n)
        board = np.zeros((n, self.planes, self.rules.size**2), dtype=np.uint8)
        number = (5 * (state.held + 1)).astype(np.uint8)
        if self.has_coins:
            board[:, -1][state.coins] = COIN if self.rules.separate_planes else PUBLISHED_COIN
        for agent in range(self.agents):
            cell = state.cells[:, agent]
            if self.rules.separate_planes:
                board[game, 0, cell] += number[:, agent] * state.shown[:, agent]
            else:
                board[game, 0, cell] = np.where(state.shown[:, agent], number[:, agent], board[game, 0, cell])
        return board

    def distances(self, state: State) -> np.ndarray:
        """Euclidean distance from the learner to each other agent, (n, others)."""
        return self.apart[state.cells[:, :1], state.cells[:, 1:]]

    def counted(self, outcome: Outcome) -> np.ndarray:
        """Whose value counts as the other's after a step, (n, others): not the dead's, nor after the end."""
        counted = outcome.state.alive[:, 1:] | self.rules.dead_other_counts
        return counted & (~outcome.terminated | self.rules.final_other_counts)[:, None]

    def equality(self, state: State) -> np.ndarray:
        """How evenly coins were shared, 2·min(R, R′)/(R + R′), R′ the others' mean return: (n,); 1 with no coins."""
        mine, theirs = self.returns(state.held[:, 0]), self.returns(state.held[:, 1:]).mean(1)
        total = mine + theirs
        return np.where(total > 0, 2 * np.minimum(mine, theirs) / np.where(total > 0, total, 1), 1.0)

    def returns(self, held: np.ndarray) -> np.ndarray:
        """Total that equality takes for so many coins; a world with coins defines it."""
        return np.zeros(held.shape)


def check_actions(actions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Actions as an integer array of a shape, or a ValueError."""
    given = np.asarray(actions)
    if given.shape != shape or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"actions have shape {given.shape} and type {given.dtype}; expected whole numbers, {shape}")
    if given.size and not (given.min() >= 0 and given.max() < N_ACTIONS):
        wrong = given[(given < 0) | (given >= N_ACTIONS)].flat[0]
        raise ValueError(f"action is {wrong}; expected 0 to {N_ACTIONS - 1}")
    return given


def stepped(state: State, **changes: np.ndarray) -> State:
    """The state one step later, with some of its arrays replaced."""
    return replace(state, step=state.step + 1, **changes)
