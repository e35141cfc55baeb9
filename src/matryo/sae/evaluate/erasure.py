"""Erasing latents: targeted probe perturbation (TPP) and spurious correlation removal (SCR), SAEBench 0.6.0.

Both ablate latents of the test texts and keep the error of reconstruction, x' = x − Σ_{i ∈ S} z_i W_dec[i]. A probe
reads the mean over tokens, and both are linear, so that means of latents are all that is needed:

    w·x̄' + b = w·x̄ + b − Σ_{i ∈ S} z̄_i (W_dec[i]·w).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from matryo.sae.evaluate.descent import Probes
from matryo.sae.evaluate.probing import contrast
from matryo.sae.evaluate.tasks import Problem
from matryo.sae.evaluate.text_activations import PooledLatents

Accuracies = dict[int, list[list[float]]]

LEAST_GAP = 0.001
"""SCR of a smaller A_oracle − A_base is 0, as in SAEBench."""


def strongest(effect: Float[Tensor, "n_latents"], most: int) -> Int[Tensor, "some"]:
    """The latents with the largest effects, the largest first, none whose effect is not above 0."""
    values, latents = effect.topk(min(most, len(effect)))
    return latents[values > 0]


def accuracies(
    logits: Float[Tensor, "texts"],
    problem: Problem,
    columns: Float[Tensor, "texts some"],
    pull: Float[Tensor, "some"],
    ns: Sequence[int],
) -> dict[int, float]:
    """Test accuracy of a probe with the first n latents ablated, for every n.

    Args:
        logits: The probe's, of unablated texts.
        problem: Whose test texts and classes are asked.
        columns: Mean latents of the texts, strongest latent first.
        pull: W_dec[i]·w of each of these latents.
        ns: How many to ablate; where there are fewer, all are.
    """
    rows, positive = torch.from_numpy(problem.test), torch.from_numpy(problem.is_test)
    clean, mine = logits[rows], columns[rows]
    found = {}
    for n in ns:
        says = clean - mine[:, :n] @ pull[:n] > 0
        found[n] = float((says == positive).double().mean())
    return found


def clean_accuracy(logits: Float[Tensor, "texts"], problem: Problem) -> float:
    """Test accuracy of a probe on unablated texts."""
    says = logits[torch.from_numpy(problem.test)] > 0
    return float((says == torch.from_numpy(problem.is_test)).double().mean())


@dataclass(frozen=True)
class Perturbation:
    """TPP of one task and seed, by number of ablated latents; ΔA is clean accuracy less ablated accuracy."""

    total: dict[int, float]
    "mean_i (ΔA_ii − mean_{j≠i} ΔA_ij)."
    intended: dict[int, float]
    "mean_i ΔA_ii."
    unintended: dict[int, float]
    "mean_i mean_{j≠i} ΔA_ij."
    drops: Accuracies
    "ΔA_ij: latents of class i ablated, probe of class j."


def perturb(
    latents: PooledLatents,
    residual: Float[Tensor, "texts d_in"],
    problems: Sequence[Problem],
    probes: Probes,
    ns: Sequence[int],
) -> Perturbation:
    """Targeted probe perturbation of m classes: does ablating a class's latents hurt its probe, and no other?

    The n latents of class i are those with the largest max(z̄⁺_j − z̄⁻_j, 0) · (w_i·W_dec[j]), means over training
    texts.

    Args:
        latents: Mean latents of the texts.
        residual: Mean activations of the texts.
        problems: One class against the rest, for each class.
        probes: The probe of each.
        ns: Numbers of latents to ablate.
    """
    logits = residual @ probes.w.T + probes.b
    clean = [clean_accuracy(logits[:, j], problem) for j, problem in enumerate(problems)]
    gain = latents.weighted_sums(contrast(problems, latents.n_texts)).clamp_min(0)
    effects = gain * (latents.directions @ probes.w.T)
    m = len(problems)
    drops: Accuracies = {n: [[0.0] * m for _ in range(m)] for n in ns}
    for i in range(m):
        chosen = strongest(effects[:, i], max(ns))
        columns = latents.columns(chosen)
        pull = latents.directions[chosen] @ probes.w.T
        for j in range(m):
            for n, accuracy in accuracies(logits[:, j], problems[j], columns, pull[:, j], ns).items():
                drops[n][i][j] = clean[j] - accuracy
    tables = {n: np.array(rows) for n, rows in drops.items()}
    intended = {n: float(np.diag(t).mean()) for n, t in tables.items()}
    unintended = {n: float((t.sum() - np.trace(t)) / (m * (m - 1))) for n, t in tables.items()}
    return Perturbation({n: intended[n] - unintended[n] for n in ns}, intended, unintended, drops)


@dataclass(frozen=True)
class Removal:
    """SCR of one pair and seed in both directions: target attribute 0 or 1, the other one spurious."""

    base: tuple[float, float]
    "Accuracy of the biased probe on the target."
    oracle: tuple[float, float]
    "Accuracy of the probe trained on the target."
    ablated: tuple[dict[int, float], dict[int, float]]
    "Accuracy of the biased probe on the target after ablating n latents of the spurious attribute."

    def score(self, target: int, n: int) -> float:
        """(A_ablated − A_base) / (A_oracle − A_base); 0 where there is nothing to gain."""
        gap = self.oracle[target] - self.base[target]
        return (self.ablated[target][n] - self.base[target]) / gap if gap >= LEAST_GAP else 0.0


def remove(
    latents: PooledLatents,
    residual: Float[Tensor, "texts d_in"],
    problems: Sequence[Problem],
    probes: Probes,
    ns: Sequence[int],
) -> Removal:
    """Spurious correlation removal: does ablating the spurious attribute's latents cure a probe of biased texts?

    The n latents of attribute s are those with the largest |(z̄⁺_j − z̄⁻_j) · (w_s·W_dec[j])|.

    Args:
        latents: Mean latents of the texts.
        residual: Mean activations of the texts.
        problems: First attribute, second attribute, both at once.
        probes: The probe of each; the last one is the biased one.
        ns: Numbers of latents to ablate.
    """
    logits = residual @ probes.w.T + probes.b
    gain = latents.weighted_sums(contrast(problems[:2], latents.n_texts))
    effects = (gain * (latents.directions @ probes.w[:2].T)).abs()
    ablated = []
    for target in (0, 1):
        chosen = strongest(effects[:, 1 - target], max(ns))
        pull = latents.directions[chosen] @ probes.w[2]
        ablated.append(accuracies(logits[:, 2], problems[target], latents.columns(chosen), pull, ns))
    base, oracle = (
        tuple(clean_accuracy(logits[:, at], problems[target]) for target, at in pairs)
        for pairs in (((0, 2), (1, 2)), ((0, 0), (1, 1)))
    )
    return Removal((base[0], base[1]), (oracle[0], oracle[1]), (ablated[0], ablated[1]))
