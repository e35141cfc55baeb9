"""How the absorption measurement is told: tables, notes, SAEBench's format, the figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matryo.sae.evaluate.absorption.config import AbsorptionConfig
from matryo.sae.evaluate.absorption.measure import Absorption, Concepts
from matryo.sae.evaluate.absorption.prompts import WordActivations
from matryo.sae.evaluate.outcome import Outcome, Table
from matryo.spine import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from matryo.sae.evaluate.subjects import Subjects
    from matryo.sae.lm import LM

ADAPTED = "adapted, not comparable with published scores"
MIN_PARAMETERS, MIN_LATENTS = 10**9, 16_384
"""SAEBench's README: not for language models under a billion parameters, nor for SAEs under 16 k latents."""

OWN_LATENT_F1 = 0.2
"""Below this F1 of the probe on a class's main latents, a note says that the class has no latent of its own."""


@dataclass(frozen=True)
class Measured:
    """One set of words: what was read, and what each autoencoder does with it."""

    label: str
    lm: str
    "Name of the model."
    found: WordActivations
    concepts: Concepts
    saes: dict[str, Absorption]


def class_table(measured: Sequence[Measured]) -> Table:
    """Every class of every autoencoder."""
    headers = (
        ("SAE", "kind, latents, k, levels, seed"),
        ("labels", "set of words"),
        ("class", "concept"),
        ("absorbed", "share of words fully absorbed: main latents silent, another latent speaks for the concept"),
        ("fraction", "mean share of the concept's projection that other latents bring"),
        ("split", "main latents of the concept"),
        ("words", "measured words of the class on which the residual's probe fires"),
        ("probe F1", "of the residual's probe on measured words"),
        ("latents F1", "of the probe on the main latents"),
        ("main latents", "their numbers"),
        ("absorbing", "latents that absorb most words, with examples"),
    )
    rows = [
        (
            sae,
            one.label,
            c.name,
            c.full,
            c.fraction,
            len(c.main_latents),
            c.words,
            c.probe_f1,
            c.latents_f1,
            " ".join(map(str, c.main_latents)),
            "; ".join(f"{a.latent} ({a.words}):{','.join(a.examples[:3])}" for a in c.absorbers[:2]),
        )
        for one in measured
        for sae, found in one.saes.items()
        for c in found.classes
    ]
    return Table(headers, tuple(rows))


def child_table(measured: Sequence[Measured]) -> Table:
    """The kinds below each class, where the labels have such."""
    headers = (
        ("SAE", "kind, latents, k, levels, seed"),
        ("labels", "set of words"),
        ("class", "concept"),
        ("child", "the kind directly below"),
        ("words", "measured words of the child on which the residual's probe fires"),
        ("fraction", "mean fraction absorbed"),
        ("absorbed", "share of words fully absorbed"),
    )
    rows = [
        (sae, one.label, c.name, child, *values)
        for one in measured
        for sae, found in one.saes.items()
        for c in found.classes
        for child, values in c.children.items()
    ]
    return Table(headers, tuple(rows), shown=False)


def notes(measured: Sequence[Measured], subjects: Subjects, lm: LM, config: AbsorptionConfig) -> Iterator[str]:
    """What must be said beside the scores: whether they may be compared, and with what they were made."""
    parameters = sum(p.numel() for p in lm.model.parameters())
    small = [name for name, sae in subjects.saes.items() if sae.config.n_latents < MIN_LATENTS]
    reasons = []
    if parameters < MIN_PARAMETERS:
        reasons.append(f"the model has {parameters / 1e6:,.0f} M parameters, under 1 B")
    if small:
        reasons.append(f"{', '.join(small)} under {MIN_LATENTS:,} latents")
    if any(one.label != "first-letter" for one in measured):
        reasons.append("labels other than first letters are not SAEBench's")
    if reasons:
        yield f"Absorption: {ADAPTED} ({'; '.join(reasons)})."
    if config.absorption_words_per_prompt > 1:
        yield f"{config.absorption_words_per_prompt} words share the examples of their prompt; SAEBench draws new ones."
    for one in measured:
        words = one.found
        yield (
            f"{one.label}: {int((~words.train).sum()):,} of {len(words.train):,} words measured, "
            f"{len(words.words.classes) - len(one.concepts.refused)} of {len(words.words.classes)} classes."
        )
        for sae, found in one.saes.items():
            weak = [c.name for c in found.classes if c.latents_f1 < OWN_LATENT_F1]
            if weak:
                yield (
                    f"{one.label}, {sae}: {len(weak)} of {len(found.classes)} classes have no latents of their own (a "
                    f"probe on their main latents has an F1 below {OWN_LATENT_F1:g}): what counts as absorbed "
                    "there may never have had a latent."
                )


def saebench_results(measured: Sequence[Measured], config: AbsorptionConfig) -> dict[str, Any]:
    """SAEBench's absorption_first_letter, where that was measured and has its means."""
    results: dict[str, Any] = {}
    for one in measured:
        for sae, found in one.saes.items():
            if one.label != "first-letter" or found.full is None:
                continue
            results[sae] = {
                "eval_type_id": "absorption_first_letter",
                "config": {
                    "model_name": one.lm,
                    "random_seed": config.absorption_seed,
                    "f1_jump_threshold": config.absorption_f1_jump,
                    "max_k_value": config.absorption_max_split,
                    "prompt_template": config.absorption_template,
                    "k_sparse_probe_l1_decay": config.absorption_sparse_l1,
                    "k_sparse_probe_batch_size": config.absorption_sparse_batch,
                    "k_sparse_probe_num_epochs": config.absorption_sparse_epochs,
                    "min_GT_probe_f1": config.absorption_min_f1,
                    "min_feats_for_eval": config.absorption_min_classes,
                },
                "metrics": {
                    "mean": {
                        "mean_absorption_fraction_score": found.fraction,
                        "mean_full_absorption_score": found.full,
                        "mean_num_split_features": found.split_latents,
                        "std_dev_absorption_fraction_score": found.fraction_sd,
                        "std_dev_full_absorption_score": found.full_sd,
                        "std_dev_num_split_features": found.split_latents_sd,
                    }
                },
                "details": [
                    {
                        "first_letter": c.name,
                        "mean_absorption_fraction": c.fraction,
                        "full_absorption_rate": c.full,
                        "num_full_absorption": round(c.full * c.words),
                        "num_probe_true_positives": c.words,
                        "num_split_features": len(c.main_latents),
                    }
                    for c in found.classes
                ],
            }
    return results


def draw(outcomes: Sequence[Outcome]) -> Iterable[tuple[str, str]]:
    """Full absorption of every class, one bar for each autoencoder."""
    shown: dict[str, dict[str, dict[str, float]]] = {}
    for outcome in outcomes:
        for sae, label, name, full, *_ in outcome.tables["classes"].rows:
            shown.setdefault(label, {}).setdefault(sae, {})[name] = full
    for label, saes in shown.items():
        classes = sorted({name for values in saes.values() for name in values})

        turned = 0 if label == "first-letter" else 30

        def plot(axes: Axes, saes: Any = saes, classes: list[str] = classes, turned: int = turned) -> None:
            width = 0.8 / len(saes)
            for i, (sae, values) in enumerate(saes.items()):
                at = [j - 0.4 + (i + 0.5) * width for j, name in enumerate(classes) if name in values]
                axes.bar(at, [values[name] for name in classes if name in values], width, label=sae)
            axes.set_xticks(range(len(classes)), classes, rotation=turned)

        yield (
            figures.svg(plot, "", "share of words absorbed", legend=True),
            f"Full absorption by class, {label}: words on which the concept's main latents are silent and another "
            "latent speaks for it. Classes with a weak probe are left out.",
        )
