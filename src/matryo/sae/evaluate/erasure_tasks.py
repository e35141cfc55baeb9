"""TPP and SCR on all tasks, seeds and autoencoders of a site; what the scores are is told in `erasure`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from matryo.sae.evaluate.descent import CONSTANTS, Probes, train_probes
from matryo.sae.evaluate.erasure import LEAST_GAP, Perturbation, Removal, perturb, remove
from matryo.sae.evaluate.intervals import Estimate, mean_over
from matryo.sae.evaluate.labelled import Material, constants, flat, open_material, seeds_of
from matryo.sae.evaluate.outcome import Outcome, Table
from matryo.sae.evaluate.tasks import CrossedTask, Problem, Task, crossed_problems, problems_of
from matryo.spine.seeding import seed_for

if TYPE_CHECKING:
    from matryo.sae.evaluate.probing_config import LabelledConfig, ScrConfig, TppConfig
    from matryo.sae.evaluate.subjects import Subjects

CAUTION = (
    "Chanin (2026) finds that TPP and SCR hardly follow the truth where it is known, and vary between seeds: "
    "look at sparse probing beside them"
)
ROOM = 0.02
"""A pair whose biased probe is not worse than the oracle by this much has nothing to remove, and is left out."""


def tpp_task(subjects: Subjects, config: TppConfig, advance: Callable[[int], object]) -> Outcome:
    """Targeted probe perturbation of all autoencoders of a site on all tasks of three or more classes."""
    material = open_material(subjects, config, Task, advance, lambda task: len(task.classes) > 2)

    def problems(task: Any, seed: int) -> list[Problem]:
        return list(problems_of(task, seed, config.probing_train, config.probing_test).values())

    drawn, missing = _train(material, config, problems)
    ns, residual = config.tpp_n, material.bank.residual()
    found: dict[str, dict[str, list[Perturbation]]] = {}
    for name, sae in subjects.saes.items():
        latents = material.bank.latents(sae, advance)
        found[name] = {
            task: [perturb(latents, residual, problems, probes, ns) for problems, probes in seeds]
            for task, seeds in drawn.items()
        }
    scores, intervals, rows, by_task, bench = {}, {}, [], [], {}
    for sae, tasks in found.items():
        parts = {part: _mean_by_n(tasks, ns, part) for part in ("total", "intended", "unintended")}
        scores[sae], intervals[sae] = flat({f"tpp_{n}": parts["total"][n] for n in ns})
        rows += [_row(sae, n, parts["total"][n], parts["intended"][n].mean, parts["unintended"][n].mean) for n in ns]
        for task, seeds in tasks.items():
            each = [Estimate(tuple(seed.total[n] for seed in seeds)) for n in ns]
            by_task.append((sae, task, *(one.mean for one in each)))
        bench[sae] = _saebench_tpp(parts, ns)
    heads = (
        ("SAE", ""),
        ("n", "latents ablated"),
        ("TPP", "intended less unintended"),
        ("low", "95 %"),
        ("high", "95 %"),
    )
    heads += (("intended", "drop of the class's own probe"), ("unintended", "drop of the other classes' probes"))
    return Outcome(
        scores=scores,
        intervals=intervals,
        tables={
            "by-n": Table(heads, tuple(rows)),
            "tasks": Table((("SAE", ""), ("task", ""), *((f"TPP {n}", "") for n in ns)), tuple(by_task)),
        },
        constants=constants(config) | CONSTANTS | {"n": list(ns), "ablation": "to zero, error kept"},
        data=material.data(),
        seeds=seeds_of(config),
        notes=(f"tpp: {len(drawn)} tasks, {config.probing_seeds} seeds. {CAUTION}.",),
        missing=missing,
        extra={"saebench": bench},
    )


def scr_task(subjects: Subjects, config: ScrConfig, advance: Callable[[int], object]) -> Outcome:
    """Spurious correlation removal of all autoencoders of a site on all crossed tasks."""
    material = open_material(subjects, config, CrossedTask, advance)

    def problems(task: Any, seed: int) -> list[Problem]:
        return list(crossed_problems(task, seed, config.probing_train, config.probing_test))

    drawn, missing = _train(material, config, problems)
    ns, residual = config.scr_n, material.bank.residual()
    found: dict[str, dict[str, list[Removal]]] = {}
    for name, sae in subjects.saes.items():
        latents = material.bank.latents(sae, advance)
        found[name] = {
            task: [remove(latents, residual, problems, probes, ns) for problems, probes in seeds]
            for task, seeds in drawn.items()
        }
    # What the probes can do does not depend on the autoencoder.
    targets = {task: _target(seeds) for task, seeds in next(iter(found.values())).items()}
    for task, (target, base, oracle) in list(targets.items()):
        if oracle - base < ROOM:
            missing[task] = (
                f"the biased probe finds {' or '.join(material.tasks[task].classes[target])} with accuracy {base:.3f}, "
                f"the oracle with {oracle:.3f}: nothing to remove; expected {ROOM} between them"
            )
            del targets[task]
    if not targets:
        raise ValueError(f"no pair can be used: {next(iter(missing.values()))}")
    return _scr_outcome(config, material, missing, found, targets)


def _scr_outcome(
    config: ScrConfig,
    material: Material,
    missing: dict[str, str],
    found: dict[str, dict[str, list[Removal]]],
    targets: dict[str, tuple[int, float, float]],
) -> Outcome:
    ns = config.scr_n
    scores, intervals, rows, by_task, bench = {}, {}, [], [], {}
    for sae, tasks in found.items():
        each = {
            task: {n: Estimate(tuple(seed.score(target, n) for seed in tasks[task])) for n in ns}
            for task, (target, _, _) in targets.items()
        }
        mean = {n: mean_over([one[n] for one in each.values()]) for n in ns}
        scores[sae], intervals[sae] = flat({f"scr_{n}": mean[n] for n in ns})
        rows += [_row(sae, n, mean[n]) for n in ns]
        for task, (target, base, oracle) in targets.items():
            pair = material.tasks[task].classes
            told = " or ".join(pair[target]), " or ".join(pair[1 - target])
            by_task.append((sae, task, *told, base, oracle, *(each[task][n].mean for n in ns)))
        bench[sae] = _saebench_scr(tasks, mean, targets, ns)
    heads = (("SAE", ""), ("n", "latents ablated"), ("SCR", "share of the lost accuracy that comes back"))
    heads += (("low", "95 %"), ("high", "95 %"))
    pairs = (
        ("SAE", ""),
        ("task", ""),
        ("target", "what is asked of the probe"),
        ("spurious", "whose latents are ablated"),
    )
    pairs += (("biased", "accuracy of the biased probe"), ("oracle", "accuracy of a probe trained on the target"))
    return Outcome(
        scores=scores,
        intervals=intervals,
        tables={
            "by-n": Table(heads, tuple(rows)),
            "tasks": Table((*pairs, *((f"SCR {n}", "") for n in ns)), tuple(by_task)),
        },
        constants=constants(config) | CONSTANTS
        | {"n": list(ns), "ablation": "to zero, error kept", "least_gap": LEAST_GAP, "room": ROOM,
           "direction": "the target on which the biased probe is worse, mean over seeds"},
        data=material.data(),
        seeds=seeds_of(config),
        notes=(f"scr: {len(targets)} pairs, {config.probing_seeds} seeds. {CAUTION}.",),
        missing=missing,
        extra={"saebench": bench},
    )  # fmt: skip


def _train(
    material: Material, config: LabelledConfig, problems_of_task: Callable[[Any, int], list[Problem]]
) -> tuple[dict[str, list[tuple[list[Problem], Probes]]], dict[str, str]]:
    """Problems and probes of every task, seed by seed; all probes of all tasks are trained in one call."""
    missing = dict(material.missing)
    drawn: dict[str, list[list[Problem]]] = {}
    for name, task in material.tasks.items():
        try:
            drawn[name] = [
                [material.placed(name, problem) for problem in problems_of_task(task, seed)]
                for seed in seeds_of(config)
            ]
        except ValueError as error:
            missing[name] = str(error)
    if not drawn:
        raise ValueError(f"no labelled task can be used: {next(iter(missing.values()))}")
    every = [
        (problem, seed_for(seed, name, at))
        for name, seeds in drawn.items()
        for seed, problems in enumerate(seeds)
        for at, problem in enumerate(problems)
    ]
    probes = train_probes(material.bank.residual(), *zip(*every, strict=True))
    trained, first = {}, 0
    for name, seeds in drawn.items():
        trained[name] = []
        for problems in seeds:
            last = first + len(problems)
            trained[name].append((problems, Probes(probes.w[first:last], probes.b[first:last])))
            first = last
    return trained, missing


def _target(seeds: Sequence[Removal]) -> tuple[int, float, float]:
    """The attribute on which the biased probe is worse, with its and the oracle's mean accuracy on it."""
    base = [sum(seed.base[target] for seed in seeds) / len(seeds) for target in (0, 1)]
    target = int(base[1] < base[0])
    return target, base[target], sum(seed.oracle[target] for seed in seeds) / len(seeds)


def _mean_by_n(tasks: dict[str, list[Perturbation]], ns: Sequence[int], part: str) -> dict[int, Estimate]:
    """The mean over tasks for every n, with its values over seeds."""
    return {
        n: mean_over([Estimate(tuple(getattr(seed, part)[n] for seed in seeds)) for seeds in tasks.values()])
        for n in ns
    }


def _row(sae: str, n: int, score: Estimate, *more: float) -> tuple[Any, ...]:
    low, high = score.interval or (None, None)
    return (sae, n, score.mean, low, high, *more)


def _saebench_tpp(parts: dict[str, dict[int, Estimate]], ns: Sequence[int]) -> dict[str, Any]:
    names = {"total": "total_metric", "intended": "intended_diff_only", "unintended": "unintended_diff_only"}
    metrics = {f"tpp_threshold_{n}_{names[part]}": one[n].mean for part, one in parts.items() for n in ns}
    return {"eval_type_id": "tpp", "metrics": {"tpp_metrics": metrics}}


def _saebench_scr(
    tasks: dict[str, list[Removal]],
    mean: dict[int, Estimate],
    targets: dict[str, tuple[int, float, float]],
    ns: Sequence[int],
) -> dict[str, Any]:
    """Its direction 1 asks the first attribute (profession, category) of the biased probe, 2 the second."""
    metrics: dict[str, float] = {}
    for n in ns:
        for target in (0, 1):
            values = [seed.score(target, n) for task in targets for seed in tasks[task]]
            metrics[f"scr_dir{target + 1}_threshold_{n}"] = sum(values) / len(values)
        metrics[f"scr_metric_threshold_{n}"] = mean[n].mean
    return {"eval_type_id": "scr", "metrics": {"scr_metrics": metrics}}
