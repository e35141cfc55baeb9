"""Sparse probing: how well a class can be told from k latents.

For each class against an equal mix of the others, on mean-pooled activations:

    chosen = the k features with the largest |mean over the class − mean over the others| on the training texts
    score  = test accuracy of a logistic regression (L2, C = 1) on them

for latents; beside it the same for channels of the residual stream, and a regression on all of the residual stream,
which bounds what is there to be found. Definition: SAEBench 0.6.0 (Karvonen et al., 2025), where the probe on the whole
residual stream is trained by AdamW for 100 epochs instead. All probes are fitted together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from matryo.sae.evaluate.intervals import Estimate, mean_over
from matryo.sae.evaluate.labelled import Material, constants, flat, open_material, seeds_of
from matryo.sae.evaluate.logistic import C, fit_columns, fit_shared
from matryo.sae.evaluate.outcome import Outcome, Table
from matryo.sae.evaluate.tasks import Problem, Task, problems_of

if TYPE_CHECKING:
    from matryo.sae.evaluate.probing_config import ProbingConfig
    from matryo.sae.evaluate.subjects import Subjects


class Features(Protocol):
    """A matrix of texts × features, read by columns."""

    def weighted_sums(self, weight: Float[Tensor, "texts columns"]) -> Float[Tensor, "features columns"]:
        """Featuresᵀ · weight."""
        ...

    def columns(self, latents: Int[Tensor, "some"]) -> Float[Tensor, "texts some"]:
        """Some columns, dense."""
        ...


@dataclass(frozen=True, eq=False)
class Channels:
    """The residual stream's channels as features."""

    values: Float[Tensor, "texts d_in"]

    def weighted_sums(self, weight: Tensor) -> Tensor:
        """Valuesᵀ · weight."""
        return self.values.T @ weight

    def columns(self, latents: Tensor) -> Tensor:
        """Some channels."""
        return self.values[:, latents]


@dataclass(frozen=True, eq=False)
class Drawn:
    """One problem, its texts numbered as in the bank."""

    task: str
    label: str
    seed: int
    problem: Problem


def contrast(problems: Sequence[Problem], n_texts: int) -> Float[Tensor, "texts problems"]:
    """Weights that make a sum over texts the mean over a class minus the mean over the others, in training."""
    weight = np.zeros((n_texts, len(problems)), np.float32)
    for at, problem in enumerate(problems):
        for rows, sign in ((problem.train[problem.is_train], 1), (problem.train[~problem.is_train], -1)):
            np.add.at(weight[:, at], rows, sign / len(rows))
    return torch.from_numpy(weight)


@torch.no_grad()
def probe_top_k(
    features: Features, problems: Sequence[Problem], n_texts: int, ks: Sequence[int]
) -> tuple[Float[Tensor, "problems ks"], Int[Tensor, "problems most"]]:
    """Test accuracy of every problem with its k features, for every k; and the features, the strongest first."""
    difference = features.weighted_sums(contrast(problems, n_texts)).abs()
    most = min(max(ks), len(difference))
    chosen = difference.topk(most, 0).indices.T
    distinct, at = torch.unique(chosen, return_inverse=True)
    dense = features.columns(distinct)
    train, positive, real = _padded([p.train for p in problems], [p.is_train for p in problems])
    test, is_test, tested = _padded([p.test for p in problems], [p.is_test for p in problems])
    accuracy = torch.empty(len(problems), len(ks))
    for column, k in enumerate(ks):
        own = at[:, None, : min(k, most)]
        w, b = fit_columns(dense[train[..., None], own], positive, real)
        says = torch.einsum("pnk,pk->pn", dense[test[..., None], own], w) + b[:, None] > 0
        accuracy[:, column] = ((says == is_test) & tested).sum(1) / tested.sum(1)
    return accuracy, chosen


def _padded(rows: Sequence[Any], positive: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Row numbers, classes, and which of them are real, filled up to the longest."""
    longest = max(map(len, rows))
    real = torch.zeros(len(rows), longest, dtype=torch.bool)
    index = torch.zeros(len(rows), longest, dtype=torch.long)
    classes = torch.zeros(len(rows), longest, dtype=torch.bool)
    for at, (one, label) in enumerate(zip(rows, positive, strict=True)):
        real[at, : len(one)] = True
        index[at, : len(one)] = torch.from_numpy(one)
        classes[at, : len(one)] = torch.from_numpy(label)
    return index, classes, real


@torch.no_grad()
def probe_all(x: Float[Tensor, "texts d_in"], problems: Sequence[Problem]) -> Float[Tensor, "problems"]:
    """Test accuracy of every problem with all channels of x; problems share most of their texts."""
    rows = np.unique(np.concatenate([rows for p in problems for rows in (p.train, p.test)]))
    sign = np.zeros((len(rows), len(problems)), np.float32)
    for at, problem in enumerate(problems):
        sign[np.searchsorted(rows, problem.train), at] = np.where(problem.is_train, 1, -1)
    mine = x[torch.from_numpy(rows)]
    w, b = fit_shared(mine, torch.from_numpy(sign))
    says = (mine @ w + b > 0).numpy()
    return torch.tensor(
        [float((says[np.searchsorted(rows, p.test), at] == p.is_test).mean()) for at, p in enumerate(problems)]
    )


def draw_problems(material: Material, config: ProbingConfig, missing: dict[str, str]) -> list[Drawn]:
    """Every class of every task for every seed; a task that cannot be split is told in `missing`."""
    drawn: list[Drawn] = []
    for name, task in material.tasks.items():
        try:
            drawn += [
                Drawn(name, label, seed, material.placed(name, problem))
                for seed in seeds_of(config)
                for label, problem in problems_of(task, seed, config.probing_train, config.probing_test).items()
            ]
        except ValueError as error:
            missing[name] = str(error)
    if not drawn:
        raise ValueError(f"no labelled task can be used: {next(iter(missing.values()))}")
    return drawn


def probing_task(subjects: Subjects, config: ProbingConfig, advance: Callable[[int], object]) -> Outcome:
    """Sparse probing of all autoencoders of a site on all tasks."""
    material = open_material(subjects, config, Task, advance)
    missing = dict(material.missing)
    drawn = draw_problems(material, config, missing)
    problems, ks = [one.problem for one in drawn], config.probing_k
    residual = material.bank.residual()
    whole = torch.empty(len(drawn), 1)
    for name in dict.fromkeys(one.task for one in drawn):
        mine = [at for at, one in enumerate(drawn) if one.task == name]
        whole[mine, 0] = probe_all(residual, [problems[at] for at in mine])
    channels, _ = probe_top_k(Channels(residual), problems, len(residual), ks)
    tops = [f"top{k}_accuracy" for k in ks]
    model = by_task(drawn, torch.cat([whole, channels], 1), ["residual_accuracy", *(f"residual_{t}" for t in tops)])
    found, chosen = {}, {}
    for name, sae in subjects.saes.items():
        accuracy, chosen[name] = probe_top_k(material.bank.latents(sae, advance), problems, len(residual), ks)
        found[name] = by_task(drawn, accuracy, tops)
    return _outcome(config, material, missing, drawn, model, found, chosen)


def by_task(drawn: Sequence[Drawn], accuracy: Tensor, names: Sequence[str]) -> dict[str, dict[str, Estimate]]:
    """For every task, and for "all" of them, the mean over classes of each column, with its values over seeds."""
    found: dict[str, dict[str, Estimate]] = {}
    for task in dict.fromkeys(one.task for one in drawn):
        columns = []
        for seed in sorted({one.seed for one in drawn}):
            mine = [at for at, one in enumerate(drawn) if one.task == task and one.seed == seed]
            columns.append(accuracy[mine].double().mean(0).tolist())
        found[task] = {
            name: Estimate(tuple(values)) for name, values in zip(names, zip(*columns, strict=True), strict=True)
        }
    found["all"] = {name: mean_over([one[name] for one in found.values()]) for name in names}
    return found


def _outcome(
    config: ProbingConfig,
    material: Material,
    missing: dict[str, str],
    drawn: list[Drawn],
    model: dict[str, dict[str, Estimate]],
    found: dict[str, dict[str, dict[str, Estimate]]],
    chosen: dict[str, Tensor],
) -> Outcome:
    scores, intervals = {}, {}
    for sae, tasks in found.items():
        scores[sae], intervals[sae] = flat(tasks["all"])
    names = [*found[next(iter(found))]["all"], *model["all"]]
    heads = (("SAE", ""), ("task", ""), ("classes", ""), *((n.replace("_", " "), "test accuracy") for n in names))
    rows = []
    for sae, tasks in found.items():
        for task, mine in tasks.items():
            classes = len(material.tasks[task].classes) if task != "all" else None
            rows.append((sae, task, classes, *(one.mean for one in (mine | model[task]).values())))
    used = Table(
        (("SAE", ""), ("task", ""), ("class", ""), ("latents", "the strongest first, with the texts of seed 0")),
        tuple(
            (sae, one.task, one.label, " ".join(map(str, latents[at].tolist())))
            for sae, latents in chosen.items()
            for at, one in enumerate(drawn)
            if one.seed == 0
        ),
        shown=False,
    )
    told = constants(config) | {
        "k": list(config.probing_k),
        "regression": f"L2, C = {C:g}",
        "classes": "one against the rest",
    }
    plain = {sae: {task: flat(mine)[0] for task, mine in tasks.items()} for sae, tasks in found.items()}
    return Outcome(
        scores=scores,
        intervals=intervals,
        baselines=flat(model["all"])[0],
        tables={"tasks": Table(heads, tuple(rows)), "latents": used},
        constants=told,
        data=material.data(),
        seeds=seeds_of(config),
        notes=(_note(config, material),),
        missing=missing,
        extra={"tasks": plain, "model": {t: flat(m)[0] for t, m in model.items()}, "saebench": _saebench(plain, model)},
    )


def _note(config: ProbingConfig, material: Material) -> str:
    tasks = len(material.tasks)
    return (
        f"probing: mean over {tasks} task{'s' * (tasks > 1)}, {config.probing_seeds} splits by document, "
        f"{config.probing_tokens} tokens of a text; only SAEBench's own sets at 127 tokens are comparable with its "
        "published scores."
    )


def _saebench(plain: dict[str, dict[str, dict[str, Any]]], model: dict[str, dict[str, Estimate]]) -> dict[str, Any]:
    """The numbers under SAEBench's names."""

    def llm(task: str) -> dict[str, float]:
        names = {name: name.replace("residual_", "llm_").replace("top", "top_") for name in model[task]}
        return {names[n].replace("_accuracy", "_test_accuracy"): one.mean for n, one in model[task].items()}

    def sae(scores: dict[str, Any]) -> dict[str, float]:
        return {"sae_" + n.replace("top", "top_").replace("_accuracy", "_test_accuracy"): v for n, v in scores.items()}

    return {
        name: {
            "eval_type_id": "sparse_probing",
            "metrics": {"llm": llm("all"), "sae": sae(tasks["all"])},
            "details": [
                {"dataset_name": task, **llm(task), **sae(scores)} for task, scores in tasks.items() if task != "all"
            ],
        }
        for name, tasks in plain.items()
    }
