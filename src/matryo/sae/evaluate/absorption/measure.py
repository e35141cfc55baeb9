"""Absorption of one autoencoder over the classes of one set of words."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matryo.sae.evaluate.absorption.config import AbsorptionConfig
from matryo.sae.evaluate.absorption.probes import (
    columns,
    encode_words,
    f1_score,
    fit_balanced_logistic,
    fit_one_vs_rest,
    take_rows,
)
from matryo.sae.evaluate.absorption.prompts import WordActivations
from matryo.sae.evaluate.absorption.score import Absorbed, Thresholds, absorbed
from matryo.sae.kernels import Entries
from matryo.sae.nn import SAE
from matryo.spine.seeding import torch_generator


@dataclass(frozen=True, eq=False)
class Concepts:
    """Probes on the site's activations: one direction for every class that can be measured."""

    W: Float[Tensor, "d classes"]
    b: Float[Tensor, "classes"]
    f1: dict[str, float]
    "On the words that are measured, for every class that was fitted."
    refused: dict[str, str]
    "Why a class is left out."


@dataclass(frozen=True)
class Absorber:
    """A latent that speaks for a concept whose own latents are silent."""

    latent: int
    words: int
    "Fully absorbed words on which it projects most."
    examples: tuple[str, ...]


@dataclass(frozen=True)
class ClassAbsorption:
    """One class of words."""

    name: str
    probe_f1: float
    latents_f1: float
    "Of the probe on the main latents."
    main_latents: tuple[int, ...]
    words: int
    "Measured words of the class on which the residual probe fires: its true positives."
    fraction: float
    full: float
    "Share of these words."
    absorbers: tuple[Absorber, ...]
    children: dict[str, tuple[int, float, float]]
    "For every child: words, fraction, full."


@dataclass(frozen=True)
class Absorption:
    """One autoencoder on one set of words; means over classes, None where too few could be measured."""

    classes: tuple[ClassAbsorption, ...]
    fraction: float | None
    full: float | None
    split_latents: float | None
    "Main latents per class."
    fraction_sd: float | None
    full_sd: float | None
    split_latents_sd: float | None


@torch.no_grad()
def fit_concepts(
    found: WordActivations, config: AbsorptionConfig, advance: Callable[[int], None] = lambda epochs: None
) -> Concepts:
    """Fit the residual's probes, one for every class with enough words; refuse the weak ones."""
    words, train = found.words, found.train
    refused: dict[str, str] = {}
    kept = []
    for i, name in enumerate(words.classes):
        fitted, measured = int(words.labels[train, i].sum()), int(words.labels[~train, i].sum())
        if fitted + measured < config.absorption_min_words or not fitted or not measured:
            refused[name] = (
                f"{fitted} words to fit on and {measured} to measure; expected {config.absorption_min_words} in all"
            )
        else:
            kept.append(i)
    d, classes = found.x.shape[1], len(words.classes)
    W, b = torch.zeros(d, classes), torch.zeros(classes)
    if kept:
        W[:, kept], b[kept] = fit_one_vs_rest(
            found.x[train],
            words.labels[train][:, kept],
            epochs=config.absorption_probe_epochs,
            batch=config.absorption_probe_batch,
            weight_decay=config.absorption_probe_decay,
            generator=torch_generator(config.absorption_seed, "absorption", words.name, "probe"),
            advance=advance,
        )
    logits = found.x[~train] @ W + b
    f1 = {words.classes[i]: f1_score(logits[:, i] > 0, words.labels[~train, i]) for i in kept}
    for name, value in f1.items():
        if value <= config.absorption_min_f1:
            refused[name] = f"its probe's F1 is {value:.2f}; expected more than {config.absorption_min_f1:g}"
    return Concepts(W, b, f1, {name: refused[name] for name in words.classes if name in refused})


@torch.no_grad()
def measure_absorption(
    sae: SAE,
    found: WordActivations,
    concepts: Concepts,
    config: AbsorptionConfig,
    min_classes: int = 1,
    advance: Callable[[int], None] = lambda epochs: None,
) -> Absorption:
    """Absorption by SAEBench's full and fractional definitions (see `absorbed`), and split latents.

    For each class, the latents of largest weight in an L1 probe on all latents are tried as its main latents, one more
    while the F1 of a logistic probe on them rises by `absorption_f1_jump`. Absorption is then measured on the
    words that the residual's probe finds: Σ over them / their number.

    Args:
        sae: takes the activations of `found`.
        found: words, split.
        concepts: the residual's probes.
        config: the constants.
        min_classes: means are given over this many classes or more.
        advance: told 1 after each epoch of the L1 probe.
    """
    device = sae.W_dec.device
    kept = [i for i, name in enumerate(found.words.classes) if name not in concepts.refused]
    labels = found.words.labels[:, kept].to(device)
    train, x = found.train.to(device), found.x.to(device)
    entries = encode_words(sae, x)
    fitted, measured = (take_rows(entries, mask.nonzero()[:, 0]) for mask in (train, ~train))
    names = [found.words.classes[i] for i in kept]
    rows = torch.nn.functional.normalize(sae.W_dec.detach().float(), dim=1)
    classes: list[ClassAbsorption] = []
    if kept:
        weights, _ = fit_one_vs_rest(
            fitted,
            labels[train],
            epochs=config.absorption_sparse_epochs,
            batch=config.absorption_sparse_batch,
            weight_decay=1e-6,
            l1=config.absorption_sparse_l1,
            generator=torch_generator(config.absorption_seed, "absorption", found.words.name, "latents"),
            advance=advance,
        )
        W, b = concepts.W[:, kept].to(device), concepts.b[kept].to(device)
        for i, name in enumerate(names):
            y = labels[:, i]
            main, f1 = split_latents(fitted, measured, y[train], y[~train], weights[:, i], config)
            hits = ((x[~train] @ W[:, i] + b[i] > 0) & y[~train]).nonzero()[:, 0]
            place = (~train).nonzero()[:, 0][hits]
            score = absorbed(x[place], take_rows(measured, hits), rows, W[:, i], main, _limits(config))
            texts = [found.words.texts[j] for j in place.tolist()]
            children = [found.words.children[j] for j in place.tolist()]
            f1s = (concepts.f1[name], f1)
            classes.append(_summary(name, f1s, tuple(main.tolist()), score, texts, children))
    enough = len(classes) >= min_classes and classes
    scores = [[c.fraction for c in classes], [c.full for c in classes], [float(len(c.main_latents)) for c in classes]]
    means = [statistics.fmean(values) if enough else None for values in scores]
    spreads = [statistics.stdev(values) if enough and len(values) > 1 else None for values in scores]
    return Absorption(tuple(classes), *means, *spreads)


def split_latents(
    fitted: Entries,
    measured: Entries,
    y_fitted: Bool[Tensor, "fitted"],
    y_measured: Bool[Tensor, "measured"],
    weights: Float[Tensor, "n_latents"],
    config: AbsorptionConfig,
) -> tuple[Int[Tensor, "k"], float]:
    """The main latents of a class, and the F1 of the probe on them.

    Those of the k largest weights (signed: a latent against the class is none of its own), k = 1, 2, … while the F1
    on measured words rises by more than `absorption_f1_jump` over the best so far.
    """
    order = weights.argsort(descending=True, stable=True)
    main, best = order[:1], -1.0
    for k in range(1, min(config.absorption_max_split, len(order)) + 1):
        chosen = order[:k]
        w, b = fit_balanced_logistic(columns(fitted, chosen), y_fitted)
        f1 = f1_score(columns(measured, chosen).double() @ w + b > 0, y_measured)
        if k > 1 and f1 <= best + config.absorption_f1_jump:
            break
        main, best = chosen, f1
    return main, best


def _limits(config: AbsorptionConfig) -> Thresholds:
    return Thresholds(
        full_cosine=config.absorption_full_cosine,
        fraction_cosine=config.absorption_fraction_cosine,
        share=config.absorption_share,
        absorbers=config.absorption_absorbers,
    )


def _summary(
    name: str,
    f1s: tuple[float, float],
    main: tuple[int, ...],
    score: Absorbed,
    texts: Sequence[str],
    children: Sequence[str | None],
) -> ClassAbsorption:
    words = len(texts)
    full, fraction, top = score.full.tolist(), score.fraction.tolist(), score.top.tolist()
    counts = Counter(top[i] for i in range(words) if full[i])
    absorbers = tuple(
        Absorber(latent, count, tuple(texts[i] for i in range(words) if full[i] and top[i] == latent)[:5])
        for latent, count in counts.most_common(5)
    )
    by_child = {}
    for child in sorted({child for child in children if child is not None}):
        mine = [i for i in range(words) if children[i] == child]
        by_child[child] = (
            len(mine),
            statistics.fmean(fraction[i] for i in mine),
            statistics.fmean(float(full[i]) for i in mine),
        )
    return ClassAbsorption(
        name=name,
        probe_f1=f1s[0],
        latents_f1=f1s[1],
        main_latents=main,
        words=words,
        fraction=statistics.fmean(fraction) if words else 0.0,
        full=statistics.fmean(map(float, full)) if words else 0.0,
        absorbers=absorbers,
        children=by_child,
    )
