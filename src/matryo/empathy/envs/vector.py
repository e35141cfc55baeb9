"""A gridworld as a native Gymnasium vector environment: one NumPy batch, no environment objects inside."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from matryo.empathy.envs.rules import RulesConfig
from matryo.empathy.envs.single import build_world, describe, view_space
from matryo.empathy.envs.world import State, World, check_actions

OF_A_STATE = ("other_alive", "other_distance", "coins", "equality")
"""What infos say of a state; the rest is of the step that led to it."""


class GridworldVectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Many games at once.

    Observations are the learners' views, (num_envs, planes, 5, 5) uint8; `infos` has the arrays of `describe`, with the
    others' views under "other_obs". Autoreset is declared in `metadata["autoreset_mode"]`:

    * SAME_STEP (default): a game that ends begins anew in the same step; its last view is in `infos["final_obs"]`, what
      else was so in `infos["final_info"]`, rows of other games being zero, and `infos["_final_obs"]` marks whose they
      are.
    * NEXT_STEP: it begins anew with the next step, whose action is passed over and whose reward is 0.
    * DISABLED: it is begun anew by `reset(options={"reset_mask": mask})`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        world: str | World = "coexistence",
        rules: str | RulesConfig = "corrected",
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
        **changes: Any,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; expected 1 or more")
        if render_mode is not None:
            raise ValueError(f"render_mode is {render_mode!r}; expected None: draw one game with draw_game")
        self.world = build_world(world, rules, changes)
        self.num_envs, self.render_mode = num_envs, None
        self.mode = AutoresetMode(autoreset_mode)
        self.metadata = {"autoreset_mode": self.mode, "render_modes": []}
        self.single_observation_space = view_space(self.world)
        self.single_action_space = spaces.Discrete(self.world.rules.actions_declared)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.state: State | None = None
        self._ended = np.zeros(num_envs, dtype=bool)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin all games, or those of the boolean array `options["reset_mask"]`."""
        if isinstance(seed, list):
            raise ValueError(f"seed is a list of {len(seed)}; expected one number: one stream serves the whole batch")
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask")
        if mask is None or self.state is None:
            self.state = self.world.start(self.np_random.random((self.num_envs, self.world.start_draws)))
            self._ended = np.zeros(self.num_envs, dtype=bool)
        else:
            self._begin_anew(np.asarray(mask, dtype=bool))
            self._ended = self._ended & ~np.asarray(mask, dtype=bool)
        views = self.world.views(self.state)
        return views[:, 0], describe(self.world, self.state) | {"other_obs": views[:, 1:]}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Act in every game."""
        if self.state is None:
            raise gymnasium.error.ResetNeeded("no game is on: call reset() first")
        world, n = self.world, self.num_envs
        mine = check_actions(np.asarray(actions), (n,))
        if self.mode is AutoresetMode.DISABLED and self._ended.any():
            first = int(np.flatnonzero(self._ended)[0])
            raise gymnasium.error.ResetNeeded(f"game {first} is over: reset it with options={{'reset_mask': ...}}")
        script = world.script(self.state, self.np_random.random((n, world.script_draws)))
        outcome = world.advance(self.state, np.concatenate([mine[:, None], script], axis=1))
        self.state = outcome.state
        ended = outcome.terminated | outcome.truncated
        reward, terminated, truncated = outcome.reward, outcome.terminated, outcome.truncated
        views, infos, final = world.views(outcome.state), describe(world, outcome.state, outcome), {}
        begun = np.zeros(n, dtype=bool)
        if self.mode is AutoresetMode.SAME_STEP and ended.any():
            final, begun = self._final(views, infos, ended), ended
        elif self.mode is AutoresetMode.NEXT_STEP and self._ended.any():
            begun = self._ended
            reward, terminated, truncated, ended = (
                np.where(begun, 0, x).astype(x.dtype) for x in (reward, terminated, truncated, ended)
            )
        if begun.any():
            fresh = self._begin_anew(begun)
            views[begun] = world.views(fresh)
            for key, value in describe(world, fresh).items():
                if key in OF_A_STATE or self.mode is AutoresetMode.NEXT_STEP:
                    infos[key][begun] = value
        self._ended = ended
        return views[:, 0], reward, terminated, truncated, infos | {"other_obs": views[:, 1:]} | final

    def _final(self, views: np.ndarray, infos: dict[str, np.ndarray], ended: np.ndarray) -> dict[str, Any]:
        """What the games that ended were last like, in Gymnasium's form; zero in the rows of others."""
        final = {key: np.zeros_like(value) for key, value in (infos | {"other_obs": views[:, 1:]}).items()}
        for key, value in final.items():
            value[ended] = views[ended, 1:] if key == "other_obs" else infos[key][ended]
        last = np.zeros_like(views[:, 0])
        last[ended] = views[ended, 0]
        return {"final_obs": last, "_final_obs": ended, "final_info": final, "_final_info": ended}

    def _begin_anew(self, where: np.ndarray) -> State:
        """Restart games; the new ones are also returned by themselves."""
        assert self.state is not None
        fresh = self.world.start(self.np_random.random((int(where.sum()), self.world.start_draws)))
        self.state = self.world.put(self.state, where, fresh)
        return fresh
