"""Linear probes trained as SAEBench trains those of TPP and SCR, many at once.

With p_i = σ(w·x_i + b), batches of 16, 20 epochs, AdamW (lr 1e-3, β 0.9 and 0.999, ε 1e-8, weight decay 0.01):

    L = mean_batch −[y log p + (1 − y) log(1 − p)] + 1e-3 ‖w‖₁.

The small batch is part of the definition: how much of a spurious correlation the biased probe learns depends on it
(SAEBench, probe_train_batch_size). SAEBench keeps the epoch that is best on the test texts; we keep the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numba import prange
from torch import Tensor

from matryo.sae.evaluate.tasks import Problem
from matryo.sae.kernels.compiled import parallel, threads
from matryo.spine.seeding import numpy_generator

BATCH, EPOCHS, LR, WEIGHT_DECAY, L1 = 16, 20, 1e-3, 0.01, 1e-3
BETAS, EPS = (0.9, 0.999), 1e-8

CONSTANTS = {
    "probe_batch": BATCH, "probe_epochs": EPOCHS, "probe_lr": LR, "probe_weight_decay": WEIGHT_DECAY, "probe_l1": L1
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Probes:
    """Linear probes: w (probes, d) and b (probes,)."""

    w: Tensor
    b: Tensor


def train_probes(x: Tensor, problems: Sequence[Problem], seeds: Sequence[int]) -> Probes:
    """Train one probe for each problem on rows of x (texts, d), each with its own seed of start and order."""
    table = np.ascontiguousarray(x.numpy(), dtype=np.float32)
    d = table.shape[1]
    w, b = np.empty((len(problems), d), np.float32), np.empty(len(problems), np.float32)
    rows, labels, start = [], [], [0]
    for at, (problem, seed) in enumerate(zip(problems, seeds, strict=True)):
        generator = numpy_generator(seed, "probe")
        bound = 1 / math.sqrt(d)  # torch.nn.Linear's start
        w[at], b[at] = generator.uniform(-bound, bound, d), generator.uniform(-bound, bound)
        for _ in range(EPOCHS):
            order = generator.permutation(len(problem.train))
            rows.append(problem.train[order])
            labels.append(problem.is_train[order])
        start.append(start[-1] + EPOCHS * len(problem.train))
    arrays = np.concatenate(rows), np.concatenate(labels).astype(np.float32), np.array(start)
    _descend(table, *arrays, w, b, threads())
    return Probes(torch.from_numpy(w), torch.from_numpy(b))


@parallel
def _descend(x, rows, labels, start, w, b, parts):
    """Train probe p in place on the rows from start[p] to start[p + 1], which are epochs one after another."""
    d = x.shape[1]
    for part in prange(parts):
        grad, m, v = np.empty(d, np.float32), np.empty(d, np.float32), np.empty(d, np.float32)
        for p in range(part, len(start) - 1, parts):
            first, length = start[p], (start[p + 1] - start[p]) // EPOCHS
            mine, bias = w[p], b[p]
            m[:], v[:] = 0, 0
            m_b, v_b, step = np.float32(0), np.float32(0), 0
            for epoch in range(EPOCHS):
                begin = first + epoch * length
                for at in range(begin, begin + length, BATCH):
                    stop = min(at + BATCH, begin + length)
                    grad[:] = 0
                    grad_b = np.float32(0)
                    for i in range(at, stop):
                        row = x[rows[i]]
                        f = bias
                        for j in range(d):
                            f += mine[j] * row[j]
                        error = (np.float32(1) / (np.float32(1) + np.exp(-f)) - labels[i]) / np.float32(stop - at)
                        grad_b += error
                        for j in range(d):
                            grad[j] += error * row[j]
                    step += 1
                    up_m, up_v = np.float32(1 - BETAS[0] ** step), np.float32(1 - BETAS[1] ** step)
                    for j in range(d):
                        g = grad[j] + np.float32(L1) * np.sign(mine[j])
                        m[j] += np.float32(1 - BETAS[0]) * (g - m[j])
                        v[j] += np.float32(1 - BETAS[1]) * (g * g - v[j])
                        mine[j] *= np.float32(1 - LR * WEIGHT_DECAY)
                        mine[j] -= np.float32(LR) * (m[j] / up_m) / (np.sqrt(v[j] / up_v) + np.float32(EPS))
                    m_b += np.float32(1 - BETAS[0]) * (grad_b - m_b)
                    v_b += np.float32(1 - BETAS[1]) * (grad_b * grad_b - v_b)
                    bias *= np.float32(1 - LR * WEIGHT_DECAY)
                    bias -= np.float32(LR) * (m_b / up_m) / (np.sqrt(v_b / up_v) + np.float32(EPS))
            b[p] = bias
