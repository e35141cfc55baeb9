"""Attainable-utility preservation: what random rewards could still be had, and a penalty for changing it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from matryo.empathy.agents.config import LearnConfig, MemberConfig
from matryo.empathy.agents.networks import Adam, StackedMLP, draw_weights
from matryo.empathy.envs.rules import N_ACTIONS
from matryo.empathy.envs.streams import Streams
from matryo.empathy.replay import Transitions

REWARDS = 10
STAY = 4


class AttainableUtilities:
    """Q-functions of ten random rewards for those members of an ensemble that have agent "aup".

        R_i(s)  = Σ_j w_ij [s_j > 0] / Σ_j [s_j > 0]                  w uniform in [0, 1), drawn once for each seed
        Q_i     ← R_i(s') + (1 − d) γ max_a Q_i,T(s', a)
        penalty = λ · Σ_i |Q_i(s, a) − Q_i(s, stay)| / Σ_i |Q_i(s, stay)|

    The ten share one network with 10 · 5 outputs, where the paper has tables. Random rewards are functions of what is
    seen, so that they generalise over views.

    Reference: Turner, Hadfield-Menell, Tadepalli, "Conservative Agency via Attainable Utility Preservation" (AIES
    2020).
    """

    def __init__(self, where: list[int], members: Sequence[MemberConfig], cells: int, config: LearnConfig) -> None:
        self.where, self.all, self.config = where, len(members), config
        seeds = [members[i].seed for i in where]
        sizes = (cells, config.hidden, config.hidden, REWARDS * N_ACTIONS)
        draws = Streams.named(seeds, "weights", "attainable").uniform(StackedMLP.numbers(sizes))
        self.flat = draw_weights(draws, sizes).repeat(2, 1)
        self.net, self.target = (StackedMLP(part, sizes) for part in self.flat.split(len(where)))
        self.gradient = StackedMLP(torch.zeros_like(self.net.flat), sizes)
        self.m, self.v, self.step = torch.zeros_like(self.net.flat), torch.zeros_like(self.net.flat), torch.zeros(())
        self.adam = Adam([self.net.flat], [self.m], [self.v], config.lr)
        rewards = Streams.named(seeds, "random rewards").uniform(cells * REWARDS)
        self.weights = torch.from_numpy(rewards).float().reshape(-1, cells, REWARDS)
        self.strength = np.array([[members[i].strength] for i in where], dtype=np.float32)

    def penalty(self, batch: Transitions) -> np.ndarray:
        """What is taken off the reward, (M, B); 0 for members that are not "aup"."""
        values = self._values(self.net(self._input(batch.obs)))
        action = batch.action[self.where].astype(np.int64)
        taken = np.take_along_axis(values, action[..., None, None], -1)[..., 0]
        change, scale = np.abs(taken - values[..., STAY]).sum(-1), np.abs(values[..., STAY]).sum(-1)
        out = np.zeros(batch.action.shape, dtype=np.float32)
        out[self.where] = self.strength * change / np.maximum(scale, 1e-3)
        return out

    def rewards(self, views: np.ndarray) -> Tensor:
        """The random rewards of views (K, B, cells): (K, B, 10)."""
        there = torch.from_numpy((views > 0).astype(np.float32))
        return torch.bmm(there, self.weights) / there.sum(-1, keepdim=True).clamp(min=1)

    def update(self, batch: Transitions) -> None:
        """One Adam step of the ten Q-functions."""
        after = batch.next_views[self.where, :, 0]
        on = torch.from_numpy(1 - batch.terminated[self.where].astype(np.float32))[..., None]
        best = torch.from_numpy(self._values(self.target(self._input(after, False))).max(-1))
        y = self.rewards(after) + on * self.config.gamma * best
        layers = self.net.forward(self._input(batch.obs))
        action = torch.from_numpy(batch.action[self.where].astype(np.int64))
        at = action[..., None] + torch.arange(REWARDS) * N_ACTIONS
        error = layers[-1].gather(-1, at) - y
        slope = torch.zeros_like(layers[-1]).scatter_(-1, at, error * (2 / error.shape[1]))
        self.net.backward(layers, slope, self.gradient)
        self.step += 1
        self.adam.descend([self.gradient.flat], self.step)

    def copy_target(self) -> None:
        """Copy the Q-functions to their targets."""
        self.target.flat.copy_(self.net.flat)

    def _input(self, views: np.ndarray, pick: bool = True) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(views[self.where] if pick else views)).float().div_(100.0)

    def _values(self, out: Tensor) -> np.ndarray:
        return out.numpy().reshape(*out.shape[:-1], REWARDS, N_ACTIONS)

    def state(self) -> dict[str, Tensor]:
        """Everything that learning goes on from."""
        return {
            "aup_flat": self.flat,
            "aup_m": self.m,
            "aup_v": self.v,
            "aup_step": self.step.reshape(1),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to where `state` was taken."""
        self.flat.copy_(state["aup_flat"])
        self.m.copy_(state["aup_m"])
        self.v.copy_(state["aup_v"])
        self.step.copy_(state["aup_step"][0])
