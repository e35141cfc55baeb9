"""The task `absorption` of `matryo sae evaluate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from matryo.sae.evaluate.absorption.config import AbsorptionConfig
from matryo.sae.evaluate.absorption.measure import Concepts, fit_concepts, measure_absorption
from matryo.sae.evaluate.absorption.prompts import WordActivations, read_activations
from matryo.sae.evaluate.absorption.telling import Measured, child_table, class_table, notes, saebench_results
from matryo.sae.evaluate.absorption.words import read_words
from matryo.sae.evaluate.outcome import Number, Outcome
from matryo.spine.config import to_dict
from matryo.spine.seeding import numpy_generator

if TYPE_CHECKING:
    from matryo.sae.evaluate.subjects import Subjects
    from matryo.sae.lm import LM

MIN_OTHER_CLASSES = 2
"""Labels other than first letters may have few classes."""

SCORES = (("full", "full_absorption"), ("fraction", "fraction_absorption"), ("split_latents", "split_latents"))


def absorption_task(
    subjects: Subjects, config: AbsorptionConfig, advance: Callable[..., None] = lambda *_, **__: None
) -> Outcome:
    """Feature absorption on every set of labels asked for; scores of the first have no prefix.

    Raises:
        ValueError: no model, or none of the sets of labels can be measured.
    """
    lm = subjects.lm
    measured: list[Measured] = []
    missing: dict[str, str] = {}
    for label in config.absorption_labels:
        try:
            found, concepts = _words(subjects, lm, label, config, advance)
        except (ValueError, OSError) as error:
            missing[label] = " ".join(str(error).split())
            continue
        saes = {
            name: measure_absorption(sae, found, concepts, config, _min_classes(label, config), lambda _: advance(0))
            for name, sae in subjects.saes.items()
        }
        measured.append(Measured(label, lm.name, found, concepts, saes))
        missing |= _refused(label, concepts, config)
        kept = len(found.words.classes) - len(concepts.refused)
        if kept < _min_classes(label, config):
            missing[f"{label}, means"] = f"{kept} classes measured; expected {_min_classes(label, config)} or more"
    if not measured:
        raise ValueError("; ".join(f"{label}: {reason}" for label, reason in missing.items()))
    return Outcome(
        scores={name: _scores(measured, name, config) for name in subjects.saes},
        intervals={name: _intervals(measured, name, config) for name in subjects.saes},
        baselines=_baselines(measured, config),
        tables={"classes": class_table(measured), "children": child_table(measured)},
        constants=_constants(config, lm),
        data={
            one.label: {
                "labels": one.found.words.digest,
                "words": len(one.found.words.texts),
                "fitted": int(one.found.train.sum()),
                "lm": lm.identity().get("weights"),
            }
            for one in measured
        },
        seeds=(config.absorption_seed,),
        notes=tuple(notes(measured, subjects, lm, config)),
        missing=missing,
        extra={"saebench": saebench_results(measured, config)},
    )


def _refused(label: str, concepts: Concepts, config: AbsorptionConfig) -> dict[str, str]:
    """The classes left out, those of one reason in one line."""
    weak = [f"{name} {concepts.f1[name]:.2f}" for name in concepts.refused if name in concepts.f1]
    few = [name for name in concepts.refused if name not in concepts.f1]
    told = {}
    if weak:
        told[f"{label}, weak probes"] = f"expected an F1 above {config.absorption_min_f1:g}: {', '.join(weak)}"
    if few:
        told[f"{label}, too few words"] = (
            f"expected {config.absorption_min_words} or more, and some to measure: {', '.join(few)}"
        )
    return told


def _words(
    subjects: Subjects, lm: LM, label: str, config: AbsorptionConfig, advance: Callable[..., None]
) -> tuple[WordActivations, Concepts]:
    """Words, activations and probes; shared by all autoencoders of the model and site."""
    key = ("absorption", label, dataclasses.replace(config, absorption_labels=(label,)))
    if key not in subjects.cache:
        template = config.absorption_template if label == "first-letter" else config.absorption_wordnet_template
        found = read_activations(
            lm,
            str(subjects.site),
            read_words(lm, label),
            template,
            examples=config.absorption_examples,
            share_prompt=config.absorption_words_per_prompt,
            train_share=config.absorption_train_share,
            limit=config.absorption_words,
            seed=config.absorption_seed,
            advance=advance,
        )
        subjects.cache[key] = (found, fit_concepts(found, config, lambda _: advance(0)))
    return subjects.cache[key]


def _min_classes(label: str, config: AbsorptionConfig) -> int:
    return config.absorption_min_classes if label == "first-letter" else MIN_OTHER_CLASSES


def _prefix(label: str, config: AbsorptionConfig) -> str:
    return "" if label == config.absorption_labels[0] else f"{label.removeprefix('file:')}_"


def _scores(measured: Sequence[Measured], sae: str, config: AbsorptionConfig) -> dict[str, Number]:
    return {
        f"{_prefix(one.label, config)}{score}": getattr(one.saes[sae], attribute)
        for one in measured
        for attribute, score in SCORES
    }


def _intervals(measured: Sequence[Measured], sae: str, config: AbsorptionConfig) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap over classes of each mean."""
    random = numpy_generator(config.absorption_seed, "absorption", "interval")
    found: dict[str, tuple[float, float]] = {}
    for one in measured:
        classes = one.saes[sae].classes
        if one.saes[sae].full is None:
            continue
        drawn = random.integers(len(classes), size=(2000, len(classes)))
        for (_, score), values in zip(
            SCORES,
            ([c.full for c in classes], [c.fraction for c in classes], [len(c.main_latents) for c in classes]),
            strict=True,
        ):
            low, high = np.quantile(np.array(values, float)[drawn].mean(1), [0.025, 0.975])
            found[f"{_prefix(one.label, config)}{score}"] = (float(low), float(high))
    return found


def _baselines(measured: Sequence[Measured], config: AbsorptionConfig) -> dict[str, Number]:
    """The mean F1 of the residual's own probes, over the classes that are measured."""
    found: dict[str, Number] = {}
    for one in measured:
        kept = [f1 for name, f1 in one.concepts.f1.items() if name not in one.concepts.refused]
        found[f"{_prefix(one.label, config)}probe_f1"] = sum(kept) / len(kept) if kept else None
    return found


def _constants(config: AbsorptionConfig, lm: LM) -> dict[str, Any]:
    return to_dict(config) | {
        "definition": "SAEBench 0.6.0",
        "probe_learning_rate": "0.01 to 0.00001, exponential by epoch",
        "interval": "95 % percentile bootstrap over classes, 2,000 draws",
        "lm_parameters": sum(p.numel() for p in lm.model.parameters()),
    }
