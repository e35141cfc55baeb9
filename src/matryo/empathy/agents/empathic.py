"""Empathic DQN and the agents that differ from it in what they learn from, any number at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matryo.empathy.agents.attainable import AttainableUtilities
from matryo.empathy.agents.config import LearnConfig, MemberConfig
from matryo.empathy.agents.networks import Adam, StackedMLP, draw_weights, empty_aligned
from matryo.empathy.envs.rules import N_ACTIONS, WINDOW
from matryo.empathy.envs.streams import Streams
from matryo.empathy.replay import Transitions
from matryo.empathy.swap import aggregate

SCALE = 100.0
"""Views are divided by it, as published."""


class EmpathicDQN:
    """M members, each with networks Q, Q_emp and the target copy Q_T of Q.

    For a transition (s, a, r, s', s'_other), d = 1 where the game is over:

        a*      = argmax_a Q(s', a)
        y_self  = r + (1 − d) γ Q_T(s', a*)
        v_other = γ Σ_k share_k max_a Q_T(s'_k, a)        (minimum: min_k)
        y_emp   = β y_self + (1 − β) v_other

    Q and Q_emp each take one Adam step on the mean of (y − Q(s, a))². Actions are ε-greedy on Q_emp. Q_T is copied
    before the first update and every `target_every` updates. share_k is 1 for the closest other, and by the corrected
    rules 0 where it is dead or the game is over. Members that are not empathic have another r or another v_other:

        dqn             β = 1
        kill_penalty    r − strength · kills, β = 1
        true_reward     β r + (1 − β) · mean of the others' rewards, then β = 1
        own_value       v_other = γ (1 − d) max_a Q_T(s', a)
        aup             r − λ · penalty (see `AttainableUtilities`), β = 1

    Reference: Bussmann et al. (2019), by the authors' code.

    Args:
        members: What each member is.
        planes: Planes of a view.
        others: Number of other agents.
        config: How they learn.
    """

    def __init__(
        self, members: Sequence[MemberConfig], planes: int = 1, others: int = 1, config: LearnConfig | None = None
    ) -> None:
        self.members, self.config = list(members), config or LearnConfig()
        self.view, self.others, self.t = (planes, WINDOW, WINDOW), others, 0
        count, cells = len(self.members), planes * WINDOW * WINDOW
        sizes = (cells, self.config.hidden, self.config.hidden, N_ACTIONS)
        seeds = [member.seed for member in self.members]
        numbers = StackedMLP.numbers(sizes)
        start = [draw_weights(Streams.named(seeds, "weights", net).uniform(numbers), sizes) for net in ("q", "q_emp")]
        self.flat = torch.cat([*start, start[0]])
        "(3M, numbers): Q, Q_emp, Q_T"
        self.both = StackedMLP(self.flat[: 2 * count], sizes)
        self.q, self.q_emp, self.q_target = (StackedMLP(part, sizes) for part in self.flat.split(count))
        self.gradient = StackedMLP(torch.zeros(2 * count, numbers), sizes)
        self.adam = Adam(self.flat[: 2 * count], self.config.lr)
        self.exploring = Streams.named(seeds, "explore")
        self.beta = self._column(lambda m: m.selfishness if m.agent in ("empathic", "own_value") else 1.0)
        self.own_value = self._column(lambda m: m.agent == "own_value")
        self.reward_share = self._column(lambda m: m.selfishness if m.agent == "true_reward" else 1.0)
        self.kill_penalty = self._column(lambda m: m.strength if m.agent == "kill_penalty" else 0.0)
        preserving = [i for i, member in enumerate(self.members) if member.agent == "aup"]
        self.attainable = AttainableUtilities(preserving, self.members, cells, self.config) if preserving else None

    def _column(self, value: Any) -> np.ndarray:
        return np.array([[value(member)] for member in self.members], dtype=np.float32)

    def select_action(self, obs: np.ndarray, epsilon: float | None = None) -> np.ndarray:
        """Choose ε-greedily on Q_emp: (M,) from views (M, planes, 5, 5), or (M, n) from (M, n, planes, 5, 5).

        Args:
            obs: What each member sees.
            epsilon: Share of random actions; the schedule's at this step when not given. Other than 0 it draws from the
                members' own streams.

        Raises:
            ValueError: The views have another shape.
        """
        epsilon = self.config.epsilon_at(self.t) if epsilon is None else epsilon
        if epsilon >= 1:
            self._check(obs)
            greedy = np.zeros(obs.shape[:-3], dtype=np.int64)
        else:
            greedy = self._evaluate(self.q_emp, obs).argmax(-1)
        if not epsilon:
            return greedy
        if greedy[0].size != 1:
            raise ValueError(f"{greedy[0].size} views of each member; expected one when exploring: it has one stream")
        explores, action = self.exploring.uniform(2).T.reshape(2, *greedy.shape)
        return np.where(explores < epsilon, (action * N_ACTIONS).astype(np.int64), greedy)

    def values(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Q, Q_emp and Q_T of views (M, …, planes, 5, 5): three arrays (M, …, actions)."""
        return self._evaluate(self.q, obs), self._evaluate(self.q_emp, obs), self._evaluate(self.q_target, obs)

    def _evaluate(self, net: StackedMLP, obs: np.ndarray) -> np.ndarray:
        self._check(obs)
        x = scaled(obs.reshape(len(self.members), -1, int(np.prod(self.view))))
        return net(x).numpy().reshape(*obs.shape[:-3], N_ACTIONS)

    def _check(self, obs: np.ndarray) -> None:
        expected = (len(self.members), *self.view)
        if obs.ndim not in (4, 5) or (len(obs), *obs.shape[-3:]) != expected or obs.dtype != np.uint8:
            raise ValueError(f"obs is {obs.dtype} {obs.shape}; expected uint8 {expected}: one view of each member")

    def alone(self, member: int) -> EmpathicDQN:
        """One member by itself, with its weights of now."""
        made = EmpathicDQN([self.members[member]], self.view[0], self.others, self.config)
        made.flat.copy_(self.flat[member :: len(self.members)])
        return made

    def hidden(self, obs: np.ndarray, layer: int = 2, net: str = "q_emp") -> np.ndarray:
        """A hidden layer after ReLU, (M, …, hidden), of views (M, …, planes, 5, 5).

        Args:
            obs: What each member sees.
            layer: 1 or 2.
            net: q, q_emp or q_target.
        """
        self._check(obs)
        if layer not in (1, 2) or net not in ("q", "q_emp", "q_target"):
            raise ValueError(f"layer {layer} of {net!r}; expected layer 1 or 2 of q, q_emp or q_target")
        x = scaled(obs.reshape(len(self.members), -1, int(np.prod(self.view))))
        return getattr(self, net).forward(x)[layer].numpy().copy().reshape(*obs.shape[:-3], self.config.hidden)

    def targets(self, batch: Transitions) -> tuple[np.ndarray, np.ndarray]:
        """y_self and y_emp, (M, B) each."""
        gamma, on = np.float32(self.config.gamma), 1 - batch.terminated.astype(np.float32)
        members, rows = batch.action.shape
        after = self.q_target(scaled(batch.next_views.reshape(members, -1, batch.obs.shape[-1]))).numpy()
        after = after.reshape(members, rows, 1 + self.others, N_ACTIONS)
        best = self.q(scaled(batch.next_views[:, :, 0])).numpy().argmax(-1)[..., None]
        reward = self.reward_share * batch.reward + (1 - self.reward_share) * batch.other_reward.mean(-1)
        reward = reward - self.kill_penalty * batch.kills
        if self.attainable:
            reward = reward - self.attainable.penalty(batch)
        y_self = reward + on * gamma * np.take_along_axis(after[:, :, 0], best, -1)[..., 0]
        v_other = gamma * aggregate(after[:, :, 1:].max(-1), batch.share, self.config.aggregation)
        if self.own_value.any():
            v_other = np.where(self.own_value, on * gamma * after[:, :, 0].max(-1), v_other)
        return y_self, self.beta * y_self + (1 - self.beta) * v_other

    def update(self, batch: Transitions) -> dict[str, np.ndarray]:
        """One step of Q and of Q_emp; returns the mean squared errors before it, (M,) each."""
        if self.t % self.config.target_every == 0:
            self.q_target.flat.copy_(self.q.flat)
            if self.attainable:
                self.attainable.copy_target()
        y_self, y_emp = self.targets(batch)
        x = scaled(batch.obs)
        layers = self.both.forward(torch.cat([x, x]))
        action = torch.from_numpy(batch.action.astype(np.int64)).repeat(2, 1)[..., None]
        error = layers[-1].gather(-1, action)[..., 0] - torch.from_numpy(np.concatenate([y_self, y_emp]))
        slope = torch.zeros_like(layers[-1]).scatter_(-1, action, (error * (2 / error.shape[1]))[..., None])
        self.both.backward(layers, slope, self.gradient)
        self.adam.descend(self.gradient.flat)
        if self.attainable:
            self.attainable.update(batch)
        self.t += 1
        loss = error.square().mean(1).numpy()
        return {"loss": loss[: len(self.members)], "loss_emp": loss[len(self.members) :]}

    def state(self) -> dict[str, Tensor]:
        """Everything that learning goes on from, by name."""
        held = {"flat": self.flat, "m": self.adam.m, "v": self.adam.v, "adam_step": self.adam.step.reshape(1)}
        held |= {"t": torch.tensor([self.t]), "exploring": torch.from_numpy(self.exploring.counters.astype(np.int64))}
        return held | (self.attainable.state() if self.attainable else {})

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to where `state` was taken."""
        self.flat.copy_(state["flat"])
        self.adam.m.copy_(state["m"])
        self.adam.v.copy_(state["v"])
        self.adam.step.copy_(state["adam_step"][0])
        self.t = int(state["t"][0])
        self.exploring.counters = state["exploring"].numpy().astype(np.uint64)
        if self.attainable:
            self.attainable.restore(state)


def scaled(views: np.ndarray) -> Tensor:
    """Views (M, rows, cells) as the networks' inputs."""
    x = empty_aligned(*views.shape)
    return torch.div(torch.from_numpy(np.ascontiguousarray(views)), SCALE, out=x)
