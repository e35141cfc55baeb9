"""Adam (Kingma & Ba, 2015) with its moments in the open, so that compiled loops can take the steps of large weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

EPS = 1e-8


@dataclass
class Moments:
    """One parameter's state: steps taken, m (mean of gradients) and v (mean of their squares)."""

    step: int
    m: Tensor
    v: Tensor

    @classmethod
    def zero(cls, like: Tensor, dtype: torch.dtype | None = None) -> Moments:
        """The state before the first step, in the memory order of `like`."""
        m, v = (torch.zeros_like(like, dtype=dtype, memory_format=torch.preserve_format) for _ in range(2))
        return cls(0, m, v)


class Adam:
    """One step for every parameter that has a gradient:

        m ← β₁m + (1 − β₁)g,   v ← β₂v + (1 − β₂)g²,   w ← w − lr · (m / (1 − β₁^t)) / (√(v / (1 − β₂^t)) + ε)

    The same as `torch.optim.Adam`, which takes a second to import what it compiles steps with.
    """  # noqa: D415 - the equation belongs to the sentence

    def __init__(self, parameters: dict[str, Tensor], betas: tuple[float, float], multiples: dict[str, float]) -> None:
        """Prepare to train.

        Args:
            parameters: by name.
            betas: decay rates β₁ and β₂.
            multiples: of the learning rate, for the parameters named; 1 for the others.
        """
        self.parameters, self.betas, self.multiples = parameters, betas, multiples
        self.lr = 0.0
        self.moments: dict[str, Moments] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Take a step with every parameter's .grad, which is then forgotten."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                self._step(name, parameter, parameter.grad)
                parameter.grad = None

    def _step(self, name: str, parameter: Tensor, grad: Tensor) -> None:
        state = self.moments.setdefault(name, Moments.zero(parameter))
        state.step += 1
        beta1, beta2 = self.betas
        state.m.lerp_(grad, 1 - beta1)
        state.v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        size = state.v.sqrt().div_((1 - beta2**state.step) ** 0.5).add_(EPS)
        rate = self.lr * self.multiples.get(name, 1.0) / (1 - beta1**state.step)
        parameter.addcdiv_(state.m, size, value=-rate)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Moments by name, and steps taken."""
        tensors = {f"{name}.{part}": getattr(own, part) for name, own in self.moments.items() for part in "mv"}
        return tensors, {name: own.step for name, own in self.moments.items()}

    def restore(self, tensors: dict[str, Tensor], steps: dict[str, int]) -> None:
        """Take up what `state` gave."""
        self.moments = {
            name: Moments(step, tensors[f"{name}.m"].to(like.device), tensors[f"{name}.v"].to(like.device))
            for name, step in steps.items()
            for like in (self.parameters[name],)
        }
