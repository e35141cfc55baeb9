"""Some members of an ensemble, and the step that they take together, in one thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from matryo.empathy.agents.config import LearnConfig, MemberConfig
from matryo.empathy.agents.networks import Adam, StackedMLP, empty_aligned
from matryo.empathy.swap import aggregate

if TYPE_CHECKING:
    from matryo.empathy.replay import Transitions

SCALE = 100.0
"""Views are divided by it, as published."""


@dataclass(frozen=True, kw_only=True)
class Aims:
    """What each of M members learns from; columns (M, 1)."""

    beta: np.ndarray
    "β of y_emp"
    own_value: np.ndarray
    "whether v_other is the member's own value"
    reward_share: np.ndarray
    "how much of the reward is its own, the rest being the others' mean"
    kill_penalty: np.ndarray
    "taken off the reward for each kill"

    @classmethod
    def of(cls, members: Sequence[MemberConfig]) -> Aims:
        """The aims of these members."""

        def share(*agents: str) -> list[list[float]]:
            return [[member.selfishness if member.agent in agents else 1.0] for member in members]

        penalties = [[member.strength if member.agent == "kill_penalty" else 0.0] for member in members]
        return cls(
            beta=np.array(share("empathic", "own_value"), dtype=np.float32),
            own_value=np.array([[member.agent == "own_value"] for member in members]),
            reward_share=np.array(share("true_reward"), dtype=np.float32),
            kill_penalty=np.array(penalties, dtype=np.float32),
        )

    def __getitem__(self, where: slice) -> Aims:
        return Aims(**{field.name: getattr(self, field.name)[where] for field in fields(self)})


class Learner:
    """Members `where` of an ensemble: their targets and their updates. Weights and moments are the ensemble's own.

    Args:
        where: The members.
        flats: Weights of Q, Q_emp and Q_T of all members, (M, numbers) each.
        moments: Adam's first and second moments, each of Q and of Q_emp, (M, numbers).
        sizes: Of the networks' layers.
        aims: What all members learn from.
        config: How they learn.
    """

    def __init__(
        self,
        where: slice,
        flats: Sequence[Tensor],
        moments: Sequence[Sequence[Tensor]],
        sizes: tuple[int, ...],
        aims: Aims,
        config: LearnConfig,
    ) -> None:
        self.where, self.aims, self.config = where, aims[where], config
        self.q, self.q_emp, self.q_target = (StackedMLP(flat[where], sizes) for flat in flats)
        self.learning = self.q, self.q_emp
        self.gradients = [StackedMLP(torch.zeros_like(net.flat), sizes) for net in self.learning]
        m, v = ([part[where] for part in moment] for moment in moments)
        self.adam = Adam([net.flat for net in self.learning], m, v, config.lr)

    def targets(self, batch: Transitions, penalty: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """y_self and y_emp, (M, B) each, of the members' transitions and what is taken off their rewards."""
        gamma, on = np.float32(self.config.gamma), 1 - batch.terminated.astype(np.float32)
        members, rows, agents, cells = batch.next_views.shape
        after = self.q_target(scaled(batch.next_views.reshape(members, -1, cells))).numpy()
        after = after.reshape(members, rows, agents, -1)
        best = self.q(scaled(batch.next_views[:, :, 0])).numpy().argmax(-1)[..., None]
        aims = self.aims
        reward = batch.reward
        if (aims.reward_share < 1).any():
            reward = aims.reward_share * reward + (1 - aims.reward_share) * batch.other_reward.mean(-1)
        if aims.kill_penalty.any():
            reward = reward - aims.kill_penalty * batch.kills
        if penalty is not None:
            reward = reward - penalty
        y_self = reward + on * gamma * np.take_along_axis(after[:, :, 0], best, -1)[..., 0]
        v_other = gamma * aggregate(after[:, :, 1:].max(-1), batch.share, self.config.aggregation)
        if aims.own_value.any():
            v_other = np.where(aims.own_value, on * gamma * after[:, :, 0].max(-1), v_other)
        return y_self, aims.beta * y_self + (1 - aims.beta) * v_other

    def update(self, batch: Transitions, penalty: np.ndarray | None, step: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Take one step of Q and of Q_emp, Adam's step number `step`; mean squared errors before it, (M,) each."""
        x = scaled(batch.obs)
        action = torch.from_numpy(batch.action.astype(np.int64))[..., None]
        losses = []
        for net, gradient, y in zip(self.learning, self.gradients, self.targets(batch, penalty), strict=True):
            layers = net.forward(x)
            error = layers[-1].gather(-1, action)[..., 0] - torch.from_numpy(y)
            slope = torch.zeros_like(layers[-1]).scatter_(-1, action, (error * (2 / error.shape[1]))[..., None])
            net.backward(layers, slope, gradient)
            losses.append(error.square().mean(1).numpy())
        self.adam.descend([gradient.flat for gradient in self.gradients], step)
        return losses[0], losses[1]


def scaled(views: np.ndarray) -> Tensor:
    """Views (M, rows, cells) as the networks' inputs."""
    x = empty_aligned(*views.shape)
    return torch.div(torch.from_numpy(np.ascontiguousarray(views)), SCALE, out=x)
