"""A gridworld as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from matryo.empathy.envs.catalogue import make_world
from matryo.empathy.envs.drawing import draw_game, print_game
from matryo.empathy.envs.rules import WINDOW, RulesConfig, make_rules
from matryo.empathy.envs.world import Outcome, State, World, check_actions
from matryo.spine.errors import unknown

RENDER_MODES = ("rgb_array", "ansi", "human")


def build_world(world: str | World, rules: str | RulesConfig, changes: dict[str, Any]) -> World:
    """A world from what an environment is made with: a name and rules, or a world as it is."""
    if isinstance(world, World):
        return world
    if isinstance(rules, str):
        rules = make_rules(rules, **changes)
    elif changes:
        raise ValueError(f"rules are given whole and {', '.join(changes)} besides; expected the one or the other")
    return make_world(world, rules)


def view_space(world: World) -> spaces.Box:
    """What one agent sees."""
    return spaces.Box(0, 255, (world.planes, WINDOW, WINDOW), np.uint8)


def describe(world: World, state: State, outcome: Outcome | None = None) -> dict[str, np.ndarray]:
    """Everything about a batch that is not the learner's view, as arrays of n rows.

    `other_obs` (n, others, planes, 5, 5) is the others' view of the state, `other_alive` (n, others) says whose is one;
    `other_counts` is where its value counts by the rules. `other_reward` is for measures: no empathic agent may see it.
    """
    n, others = state.alive[:, 1:].shape
    quiet = np.zeros((n, others), dtype=bool)
    return {
        "other_alive": state.alive[:, 1:].copy(),
        "other_counts": world.counted(outcome) if outcome else state.alive[:, 1:] | world.rules.dead_other_counts,
        "other_distance": world.distances(state),
        "other_reward": outcome.other_reward.copy() if outcome else np.zeros((n, others)),
        "got_killed": outcome.got_killed.copy() if outcome else np.zeros(n, dtype=bool),
        "num_killed": (outcome.killed if outcome else quiet).sum(1),
        "coins": state.held.copy(),
        "equality": world.equality(state),
    }


class GridworldEnv(gymnasium.Env[np.ndarray, np.int64]):
    """One game: the learner acts, the others follow their script.

    The observation is the learner's view, (planes, 5, 5) uint8; `info` has the others' views and masks, see `describe`.

    Args:
        world: A name, `module:Class`, or a `World`.
        rules: "corrected", "published", or a `RulesConfig`; with a preset, further keywords change single rules.
        render_mode: "rgb_array", "ansi" (text), or "human" (text in the terminal, after every step).
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 8}  # noqa: RUF012 - Gymnasium's way

    def __init__(
        self,
        world: str | World = "coexistence",
        rules: str | RulesConfig = "corrected",
        render_mode: str | None = None,
        **changes: Any,
    ) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise unknown("render_mode", str(render_mode), RENDER_MODES)
        self.world = build_world(world, rules, changes)
        self.render_mode = render_mode
        self.observation_space = view_space(self.world)
        self.action_space = spaces.Discrete(self.world.rules.actions_declared)
        self.state: State | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin a game; no options are taken."""
        super().reset(seed=seed)
        self.state = self.world.start(self.np_random.random((1, self.world.start_draws)))
        return self._told(None, 0)

    def step(self, action: int | np.integer) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Act; everyone moves."""
        if self.state is None:
            raise gymnasium.error.ResetNeeded("no game is on: call reset() first")
        world, state = self.world, self.state
        mine = check_actions(np.asarray([action]), (1,))
        script = world.script(state, self.np_random.random((1, world.script_draws)))
        outcome = world.advance(state, np.concatenate([mine[:, None], script], axis=1))
        self.state = outcome.state
        obs, info = self._told(outcome, int(mine[0]))
        return obs, float(outcome.reward[0]), bool(outcome.terminated[0]), bool(outcome.truncated[0]), info

    def _told(self, outcome: Outcome | None, action: int) -> tuple[np.ndarray, dict]:
        assert self.state is not None
        views = self.world.views(self.state)[0]
        if self.render_mode == "human":
            print_game(self.world, self.state)
        info: dict[str, Any] = {key: value[0] for key, value in describe(self.world, self.state, outcome).items()}
        info |= {"got_killed": bool(info["got_killed"]), "num_killed": int(info["num_killed"])}
        return views[0], info | {"other_obs": views[1:], "equality": float(info["equality"])}

    def render(self) -> Any:
        """The board as an RGB array or as text; "human" has printed it already."""
        if self.state is None or self.render_mode in (None, "human"):
            return None
        return (
            draw_game(self.world, self.state)
            if self.render_mode == "rgb_array"
            else print_game(self.world, self.state, to_terminal=False)
        )
