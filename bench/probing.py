"""Sparse probing, all probes fitted together, beside scikit-learn fitting the same probes one by one on dense latents.

    python -m bench.probing --run RUN [--cache FOLDER] [--rounds 3] [--seeds 1]

Both are given the same mean activations of the same texts; the model and the autoencoder are run before and not timed.
Each round times both, ours first. scikit-learn's side takes the difference of means on dense latents and fits
`LogisticRegression(C=1, max_iter=1000)`, once for every class, seed and k on latents and on channels, and once on the
whole residual stream. Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matryo.sae.evaluate import Subjects, open_subjects
from matryo.sae.evaluate.labelled import open_material
from matryo.sae.evaluate.probing import Channels, Drawn, draw_problems, probe_all, probe_top_k
from matryo.sae.evaluate.probing_config import ProbingConfig
from matryo.sae.evaluate.tasks import Task
from matryo.sae.evaluate.text_activations import PooledLatents
from matryo.sae.sources import read_saes

PARTS = ("latents", "channels", "residual stream")


def together(
    latents: PooledLatents, residual: Tensor, drawn: Sequence[Drawn], ks: Sequence[int]
) -> tuple[np.ndarray, list[float]]:
    """Ours: accuracies (problems, latents' ks + channels' ks + 1), and the seconds of each of the three parts."""
    problems = [one.problem for one in drawn]
    clock = [time.perf_counter()]
    of_latents, _ = probe_top_k(latents, problems, len(residual), ks)
    clock.append(time.perf_counter())
    of_channels, _ = probe_top_k(Channels(residual), problems, len(residual), ks)
    clock.append(time.perf_counter())
    whole = torch.empty(len(drawn), 1)
    for name in dict.fromkeys(one.task for one in drawn):
        mine = [at for at, one in enumerate(drawn) if one.task == name]
        whole[mine, 0] = probe_all(residual, [problems[at] for at in mine])
    clock.append(time.perf_counter())
    return torch.cat([of_latents, of_channels, whole], 1).numpy(), np.diff(clock).tolist()


def one_by_one(
    dense: np.ndarray, residual: np.ndarray, drawn: Sequence[Drawn], ks: Sequence[int]
) -> tuple[np.ndarray, list[float]]:
    """scikit-learn: the same."""
    from sklearn.linear_model import LogisticRegression

    def fit(train: np.ndarray, test: np.ndarray, one: Drawn) -> float:
        found = LogisticRegression(C=1.0, max_iter=1000).fit(train, one.problem.is_train)
        return float((found.predict(test) == one.problem.is_test).mean())

    def top(values: np.ndarray, one: Drawn) -> list[float]:
        train, test = values[one.problem.train], values[one.problem.test]
        difference = np.abs(train[one.problem.is_train].mean(0) - train[~one.problem.is_train].mean(0))
        order = np.argsort(-difference)
        return [fit(train[:, order[:k]], test[:, order[:k]], one) for k in ks]

    clock = [time.perf_counter()]
    parts = [[top(dense, one) for one in drawn]]
    clock.append(time.perf_counter())
    parts.append([top(residual, one) for one in drawn])
    clock.append(time.perf_counter())
    parts.append([[fit(residual[one.problem.train], residual[one.problem.test], one)] for one in drawn])
    clock.append(time.perf_counter())
    return np.concatenate(parts, 1), np.diff(clock).tolist()


def measure(subjects: Subjects, config: ProbingConfig, rounds: int) -> dict[str, Any]:
    """Time both on the first autoencoder of a run."""
    material = open_material(subjects, config, Task, lambda n: None)
    drawn = draw_problems(material, config, missing := dict(material.missing))
    name, sae = next(iter(subjects.saes.items()))
    residual, latents = material.bank.residual(), material.bank.latents(sae, lambda n: None)
    dense = latents.columns(torch.arange(latents.n_latents)).contiguous().numpy()
    together(latents, residual, drawn[:2], config.probing_k)  # compiles
    times: dict[str, list[list[float]]] = {"together": [], "one by one": []}
    ours = theirs = np.empty(0)
    for _ in range(rounds):
        ours, seconds = together(latents, residual, drawn, config.probing_k)
        times["together"].append(seconds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 1,000 iterations are not always enough for it
            theirs, seconds = one_by_one(dense, residual.numpy(), drawn, config.probing_k)
        times["one by one"].append(seconds)
    median = {name: np.median(values, 0) for name, values in times.items()}
    ks = config.probing_k
    columns = [*(f"latents, k = {k}" for k in ks), *(f"channels, k = {k}" for k in ks), "residual stream"]
    return {
        "sae": name,
        "texts": len(residual),
        "problems": len(drawn),
        "probes": int(ours.size),
        "seconds": {name: values.tolist() for name, values in median.items()},
        "ratio": float(median["one by one"].sum() / median["together"].sum()),
        "accuracy": {c: [float(a), float(b)] for c, a, b in zip(columns, ours.mean(0), theirs.mean(0), strict=True)},
        "largest_difference": float(np.abs(ours - theirs).max()),
        "missing": missing,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a training run on a language model")
    parser.add_argument("--cache", default="", help="folder that keeps the model's activations")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1, help="seeds; the evaluation's own default is 5")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = ProbingConfig(probing_cache=options.cache, probing_seeds=options.seeds)
    found = measure(open_subjects(read_saes([options.run]))[0], config, options.rounds)
    print(f"{found['probes']:,} probes on {found['texts']:,} texts; accuracies: together, one by one")
    for name, (ours, theirs) in found["accuracy"].items():
        print(f"  {name:18} {ours:.4f}  {theirs:.4f}  {100 * (ours - theirs):+.2f} points")
    for name, values in found["seconds"].items():
        told = ", ".join(f"{part} {value:.2f}" for part, value in zip(PARTS, values, strict=True))
        print(f"  {name:18} {sum(values):.2f} s: {told}")
    print(f"  {found['ratio']:.1f} × faster together")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
