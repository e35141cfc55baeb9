"""Empathic DQN and the agents that differ from it in what they learn from, any number at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matryo.empathy.agents.attainable import AttainableUtilities
from matryo.empathy.agents.config import LearnConfig, MemberConfig
from matryo.empathy.agents.learner import Aims, Learner, scaled
from matryo.empathy.agents.networks import StackedMLP, draw_weights
from matryo.empathy.envs.rules import N_ACTIONS, WINDOW
from matryo.empathy.envs.streams import Streams
from matryo.empathy.replay import Transitions


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
        threads: Threads that update members, a share of them each; more than one expects `torch.set_num_threads(1)`.
            Bits do not depend on it.
    """

    def __init__(
        self,
        members: Sequence[MemberConfig],
        planes: int = 1,
        others: int = 1,
        config: LearnConfig | None = None,
        threads: int = 1,
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
        self.m, self.v, self.adam_step = (
            torch.zeros(2 * count, numbers),
            torch.zeros(2 * count, numbers),
            torch.zeros(()),
        )
        flats, moments = self.flat.split(count), (self.m.split(count), self.v.split(count))
        self.q, self.q_emp, self.q_target = (StackedMLP(flat, sizes) for flat in flats)
        aims, threads = Aims.of(self.members), min(threads, count)
        edges = [count * i // threads for i in range(threads + 1)]
        shares = [slice(a, b) for a, b in itertools.pairwise(edges)]
        self.learners = [Learner(where, flats, moments, sizes, aims, self.config) for where in shares]
        self.pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        self.exploring = Streams.named(seeds, "explore")
        preserving = [i for i, member in enumerate(self.members) if member.agent == "aup"]
        self.attainable = AttainableUtilities(preserving, self.members, cells, self.config) if preserving else None

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
        y_self, y_emp = zip(*self._shared(Learner.targets, batch), strict=True)
        return np.concatenate(y_self), np.concatenate(y_emp)

    def update(self, batch: Transitions) -> dict[str, np.ndarray]:
        """One step of Q and of Q_emp; returns the mean squared errors before it, (M,) each."""
        if self.t % self.config.target_every == 0:
            self.q_target.flat.copy_(self.q.flat)
            if self.attainable:
                self.attainable.copy_target()
        self.adam_step += 1
        loss, loss_emp = zip(*self._shared(Learner.update, batch, self.adam_step), strict=True)
        if self.attainable:
            self.attainable.update(batch)
        self.t += 1
        return {"loss": np.concatenate(loss), "loss_emp": np.concatenate(loss_emp)}

    def _shared(self, work: Callable[..., Any], batch: Transitions, *more: Any) -> list[Any]:
        """What every learner makes of its members' transitions and of what is taken off their rewards."""
        penalty = self.attainable.penalty(batch) if self.attainable else None

        def do(learner: Learner) -> Any:
            own = Transitions(**{name: value[learner.where] for name, value in vars(batch).items()})
            return work(learner, own, None if penalty is None else penalty[learner.where], *more)

        first, *others = self.learners
        waiting = self.pool.map(do, others) if self.pool else ()
        return [do(first), *waiting]

    def state(self) -> dict[str, Tensor]:
        """Everything that learning goes on from, by name."""
        held = {"flat": self.flat, "m": self.m, "v": self.v, "adam_step": self.adam_step.reshape(1)}
        held |= {"t": torch.tensor([self.t]), "exploring": torch.from_numpy(self.exploring.counters.astype(np.int64))}
        return held | (self.attainable.state() if self.attainable else {})

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to where `state` was taken."""
        self.flat.copy_(state["flat"])
        self.m.copy_(state["m"])
        self.v.copy_(state["v"])
        self.adam_step.copy_(state["adam_step"][0])
        self.t = int(state["t"][0])
        self.exploring.counters = state["exploring"].numpy().astype(np.uint64)
        if self.attainable:
            self.attainable.restore(state)
