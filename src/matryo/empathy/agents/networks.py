"""Many small networks of one shape as stacked weights: every layer of all of them is one batched product."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ALIGN = 16
"""Floats in 64 bytes: every member's numbers begin at a cache line, so that vector code treats each of them alike."""
NARROW = 16
"""A product with fewer columns is three times faster with its right side laid out by columns (measured: 5 columns)."""


class StackedMLP:
    """M networks q = W₃ᵀ relu(W₂ᵀ relu(W₁ᵀ x + b₁) + b₂) + b₃, gradients by hand.

    One flat tensor (M, numbers) holds all weights of all members, aligned; the layers are views of it. What comes out
    for a member does not depend on how many others are computed beside it, to the last bit.
    """

    def __init__(self, flat: Tensor, sizes: tuple[int, ...]) -> None:
        self.flat, self.sizes = flat, sizes
        self._room: dict[tuple[str, int, int], Tensor] = {}
        self.weights, self.biases = _views(flat, sizes)

    @staticmethod
    def numbers(sizes: tuple[int, ...]) -> int:
        """How many floats a member takes, padding included."""
        return sum(_aligned(a * b) + _aligned(b) for a, b in itertools.pairwise(sizes))

    def __call__(self, x: Tensor) -> Tensor:
        """Q values (M, rows, actions) of inputs (M, rows, d)."""
        return self.forward(x)[-1]

    def forward(self, x: Tensor) -> list[Tensor]:
        """The input, both hidden layers after ReLU, and the output; hidden ones hold until the next call."""
        layers = [x]
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            inner = i < len(self.weights) - 1
            y = (
                self._take("layer", i, x.shape[1], weight.shape[2])
                if inner
                else empty_aligned(len(x), x.shape[1], self.sizes[-1])
            )
            if weight.shape[2] < NARROW:
                by_columns = self._take("columns", i, *weight.mT.shape[1:])
                weight = by_columns.copy_(weight.mT).mT
            torch.baddbmm(bias, layers[-1], weight, out=y)
            layers.append(y.relu_() if inner else y)
        return layers

    def backward(self, layers: list[Tensor], slope: Tensor, gradient: StackedMLP) -> None:
        """Write the gradients of Σ slope · output into `gradient`, which has the same shape."""
        for i in reversed(range(len(self.weights))):
            if slope.shape[2] < NARROW:
                by_columns = self._take("columns", i, *self.weights[i].mT.shape[1:])
                gradient.weights[i].copy_(torch.bmm(slope.mT, layers[i], out=by_columns).mT)
            else:
                torch.bmm(layers[i].mT, slope, out=gradient.weights[i])
            torch.sum(slope, 1, keepdim=True, out=gradient.biases[i])
            if i:
                back = self._take("slope", i, slope.shape[1], self.sizes[i])
                torch.bmm(slope, self.weights[i].mT, out=back)
                slope = torch.ops.aten.threshold_backward.grad_input(back, layers[i], 0, grad_input=back)

    def _take(self, what: str, i: int, rows: int, columns: int) -> Tensor:
        """Room for a hidden layer, the same at every call: fresh memory would cost more than the product."""
        key = (what, i, rows)
        if key not in self._room:
            self._room[key] = empty_aligned(len(self.flat), rows, columns)
        return self._room[key]


class Adam:
    """Adam for flat tensors, fused: β 0.9 and 0.999, ε 1e-8, no decay.

    m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², θ ← θ − lr · m̂ / (√v̂ + ε). TensorFlow 1 adds ε before the bias of v is taken
    out, which is the same but for the first hundred steps.

    Args:
        weights: What it descends with.
        m: First moments, shaped as the weights.
        v: Second moments.
        lr: Learning rate.
    """

    def __init__(self, weights: Sequence[Tensor], m: Sequence[Tensor], v: Sequence[Tensor], lr: float) -> None:
        self.weights, self.m, self.v, self.lr = list(weights), list(m), list(v), lr

    def descend(self, gradients: Sequence[Tensor], step: Tensor) -> None:
        """Take step number `step`, the first being 1."""
        torch.ops.aten._fused_adam_(
            self.weights,
            list(gradients),
            self.m,
            self.v,
            [],
            [step] * len(self.weights),
            lr=self.lr,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
            grad_scale=None,
            found_inf=None,
        )


def empty_aligned(members: int, rows: int, columns: int) -> Tensor:
    """Room for (members, rows, columns) floats in which every member begins at a cache line.

    Products take other paths, which round differently, for other alignments.
    """
    each = rows * columns
    return torch.empty(members, _aligned(each))[:, :each].view(members, rows, columns)


def draw_weights(draws: np.ndarray, sizes: tuple[int, ...]) -> Tensor:
    """Xavier-uniform weights and zero biases, (M, numbers), from uniform numbers of the same shape."""
    flat = torch.from_numpy(draws).float()
    weights, biases = _views(flat, sizes)
    for weight, bias, (a, b) in zip(weights, biases, itertools.pairwise(sizes), strict=True):
        weight.mul_(2).sub_(1).mul_(math.sqrt(6 / (a + b)))
        bias.zero_()
    return flat


def _aligned(count: int) -> int:
    return -(-count // ALIGN) * ALIGN


def _views(flat: Tensor, sizes: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    weights, biases, at = [], [], 0
    for a, b in itertools.pairwise(sizes):
        weights.append(flat[:, at : at + a * b].view(-1, a, b))
        at += _aligned(a * b)
        biases.append(flat[:, at : at + b].unsqueeze(1))
        at += _aligned(b)
    return weights, biases
