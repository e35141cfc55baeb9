"""A gridworld as a PettingZoo parallel environment: every agent is played from outside, by what it sees."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from pettingzoo import ParallelEnv

from matryo.empathy.envs.drawing import draw_game, print_game
from matryo.empathy.envs.rules import N_ACTIONS, RulesConfig
from matryo.empathy.envs.single import RENDER_MODES, build_world, view_space
from matryo.empathy.envs.world import State, World, check_actions
from matryo.spine.errors import unknown


class GridworldParallelEnv(ParallelEnv):
    """The agents are "learner", "other_0", "other_1" …; each sees its own view and gets its own reward.

    An other that is killed is terminated. When the learner dies, or the last coin is gone, all are; at the time limit
    all are truncated. `infos[agent]["scripted_action"]` is what the world's script would have an other do next.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - PettingZoo's way
        "render_modes": list(RENDER_MODES),
        "name": "matryo_gridworld_v0",
        "is_parallelizable": True,
        "render_fps": 8,
    }

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
        self.possible_agents = ["learner", *(f"other_{i}" for i in range(self.world.rules.others))]
        self.agents: list[str] = []
        self.observation_spaces = {agent: view_space(self.world) for agent in self.possible_agents}
        self.action_spaces = {agent: spaces.Discrete(N_ACTIONS) for agent in self.possible_agents}
        self.np_random, _ = seeding.np_random()
        self.game: State | None = None

    def observation_space(self, agent: str) -> spaces.Space:
        """What an agent sees."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        """What it can do."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Begin a game."""
        if seed is not None:
            self.np_random, _ = seeding.np_random(seed)
        self.game = self.world.start(self.np_random.random((1, self.world.start_draws)))
        self.agents = list(self.possible_agents)
        return self._observations(), self._infos()

    def step(self, actions: dict[str, int]) -> tuple[dict, dict, dict, dict, dict]:
        """Everyone acts; those who are gone stay out of it."""
        if self.game is None or not self.agents:
            return {}, {}, {}, {}, {}
        if missing := [agent for agent in self.agents if agent not in actions]:
            raise ValueError(f"no action for {', '.join(missing)}; expected one for each of {', '.join(self.agents)}")
        joint = check_actions(np.array([[int(actions.get(agent, 4)) for agent in self.possible_agents]]),
                              (1, len(self.possible_agents)))  # fmt: skip
        outcome = self.world.advance(self.game, joint)
        self.game = outcome.state
        rewards = [float(outcome.reward[0]), *map(float, outcome.other_reward[0])]
        over, late = bool(outcome.terminated[0]), bool(outcome.truncated[0])
        gone = [over, *(over or bool(dead) for dead in ~outcome.state.alive[0, 1:])]
        place = {agent: i for i, agent in enumerate(self.possible_agents)}
        result = (
            self._observations(),
            {agent: rewards[place[agent]] for agent in self.agents},
            {agent: gone[place[agent]] for agent in self.agents},
            {agent: late and not gone[place[agent]] for agent in self.agents},
            self._infos(),
        )
        self.agents = [] if over or late else [agent for agent in self.agents if not gone[place[agent]]]
        if self.render_mode == "human":
            self.render()
        return result

    def _observations(self) -> dict[str, np.ndarray]:
        assert self.game is not None
        views = self.world.views(self.game)[0]
        return {agent: views[i] for i, agent in enumerate(self.possible_agents) if agent in self.agents}

    def _infos(self) -> dict[str, dict[str, Any]]:
        assert self.game is not None
        script = self.world.script(self.game, self.np_random.random((1, self.world.script_draws)))[0]
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        for i, agent in enumerate(self.possible_agents[1:]):
            if agent in infos:
                infos[agent]["scripted_action"] = int(script[i])
        return infos

    def render(self) -> Any:
        """The board as an RGB array or text; "human" prints it."""
        if self.game is None or self.render_mode is None:
            return None
        if self.render_mode == "rgb_array":
            return draw_game(self.world, self.game)
        text = print_game(self.world, self.game, to_terminal=self.render_mode == "human")
        return text if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Nothing is held."""
