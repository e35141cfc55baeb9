"""How well the largest decoder cosine tells novel latents from the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Roc:
    """The curve of "novel where the cosine is at most τ" over all τ, and the τ that tells best."""

    auc: float
    "Probability that a novel latent has the smaller cosine of the two, ties counted half; nan without both classes."
    threshold: float
    "τ of the largest TPR − FPR (Youden's J); nan without both classes."
    tpr: float
    "Share of novel latents at or below this τ."
    fpr: float
    "Share of the others at or below it."
    curve: tuple[tuple[float, float, float], ...]
    "(τ, FPR, TPR) at each distinct cosine, ascending."


def roc_of(cosine: np.ndarray, novel: np.ndarray) -> Roc:
    """The receiver operating characteristic of small cosines as a sign of novelty.

    For latents with cosines c and the truth `novel` (ΔMSE < 0), at every value τ of c

        TPR(τ) = |novel, c ≤ τ| / |novel|,    FPR(τ) = |other, c ≤ τ| / |other|,    AUC = ∫ TPR dFPR,

    and threshold = the midpoint between the τ of the largest TPR − FPR and the next larger cosine, so that a cosine
    seen here is never at the threshold itself.
    """
    positives, negatives = int(novel.sum()), int((~novel).sum())
    if not positives or not negatives:
        return Roc(float("nan"), float("nan"), float("nan"), float("nan"), ())
    order = np.argsort(cosine, kind="stable")
    values, truth = cosine[order].astype(np.float64), novel[order]
    last = np.flatnonzero(np.append(values[1:] > values[:-1], True))  # ties are one point
    tpr, fpr = np.cumsum(truth)[last] / positives, np.cumsum(~truth)[last] / negatives
    auc = float(np.trapezoid(np.append(0, tpr), np.append(0, fpr)))
    best = int(np.argmax(tpr - fpr))
    above = values[last[best + 1]] if best + 1 < len(last) else 1.0
    threshold = (values[last[best]] + above) / 2
    curve = tuple(zip(values[last].tolist(), fpr.tolist(), tpr.tolist(), strict=True))
    return Roc(auc, float(threshold), float(tpr[best]), float(fpr[best]), curve)


def agreement(cosine: np.ndarray, novel: np.ndarray, threshold: float) -> float:
    """Share of latents for which "cosine ≤ threshold" says what ΔMSE says."""
    return float(((cosine <= threshold) == novel).mean()) if len(novel) else float("nan")
