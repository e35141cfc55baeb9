"""Units of work: what there is to do, in which order, and doing it so that it can be interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from matryo.spine.config import write_text

Results = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Form:
    """How large the recipe is."""

    recipe: str
    "Of harvest and training: model, site, text, learning rate."
    values: dict[str, Any] = field(default_factory=dict)
    "Values that differ from the recipe's."
    k: tuple[int, ...] = (16, 32, 64)
    seeds: int = 5
    "Paired seeds of initial weights and batch order, for FVU, CE, meta-SAEs and the toy worlds."
    deep_seeds: int = 3
    "Paired seeds of absorption, probing and TPP."
    deep_k: int = 32
    "Where absorption, probing, TPP and meta-SAEs are measured."
    ce_tokens: int = 4096
    toy_steps: int | None = None
    limits: dict[str, Any] = field(default_factory=dict)
    "Options of the deep tasks and of meta-SAEs."


FULL = Form(recipe="smollm2")
SHORT = Form(
    recipe="tiny",
    values={"tokens": 30_000, "n_latents": (1024,), "passes": 3.0},
    k=(32,),
    seeds=2,
    deep_seeds=0,
    ce_tokens=2048,
    toy_steps=1_500,
    limits={"steps": 500},  # of meta-SAEs
)
DEEP = ("absorption", "probing", "tpp")
"""Evaluations of the pair at `deep_k`, one unit for each seed."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One piece of work, of at most 20 minutes on two cores in the full form."""

    name: str
    kind: Literal["toy", "toy-meta", "harvest", "train", "evaluate", "meta"]
    needs: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)


def plan(form: Form, tasks: Sequence[str]) -> list[Unit]:
    """All units, in the order in which they are done; deep tasks only as far as there are such."""
    units = [Unit(name="toy-paper", kind="toy", values={"world": "paper", "seeds": list(range(form.seeds))})]
    units += [
        Unit(name=f"toy-generated-s{seed}", kind="toy", values={"world": "generated", "seeds": [seed]})
        for seed in range(form.seeds)
    ]
    units += [Unit(name=f"toy-meta-s{seed}", kind="toy-meta", values={"seeds": [seed]}) for seed in range(form.seeds)]
    units.append(Unit(name="harvest", kind="harvest"))
    for k in sorted(form.k, key=lambda k: (k != form.deep_k, k)):
        for seed in range(form.seeds):
            at = f"k{k}-s{seed}"
            pair = {"kind": ("batch_topk",), "levels": ("none", "nested"), "k": (k,), "seed": seed, "sae_seed": (seed,)}
            rules = pair | {"kind": ("topk", "jumprelu"), "levels": ("none",)}
            units.append(Unit(name=f"train-pair-{at}", kind="train", needs=("harvest",), values=pair))
            units.append(Unit(name=f"train-rules-{at}", kind="train", needs=("harvest",), values=rules))
            trained = (f"train-pair-{at}", f"train-rules-{at}")
            basic = {"tasks": ("reconstruction", "downstream"), "k": k, "seed": seed}
            units.append(Unit(name=f"basic-{at}", kind="evaluate", needs=trained, values=basic))
            for task in DEEP if k == form.deep_k and seed < form.deep_seeds else ():
                if task in tasks:
                    deep = {"tasks": (task,), "k": k, "seed": seed}
                    units.append(Unit(name=f"{task}-{at}", kind="evaluate", needs=trained[:1], values=deep))
            if k == form.deep_k:
                apart = {"k": k, "seed": seed}
                units.append(Unit(name=f"meta-{at}", kind="meta", needs=trained[:1], values=apart))
    return units


def run_units(
    units: Sequence[Unit],
    folder: Path,
    work: Callable[[Unit, Results], dict[str, Any]],
    only: Sequence[str] = (),
) -> Iterator[tuple[Unit, dict[str, Any], bool]]:
    """Do what has no result in `folder` yet, and write it; give each unit, its result and whether it is new.

    Args:
        units: of `plan`.
        folder: where results are, NAME.json each.
        work: does one unit, given the results of those it needs.
        only: beginnings of the names of the units wanted, with what they need; all when empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = read_results(units, folder)
    named = {unit.name: unit for unit in units}
    wanted: set[str] = set()

    def want(unit: Unit) -> None:
        wanted.add(unit.name)
        for need in unit.needs:
            want(named[need])

    for unit in units:
        if not only or unit.name.startswith(tuple(only)):
            want(unit)
    for unit in units:
        if unit.name not in wanted:
            continue
        new = unit.name not in done
        if new:
            result = work(unit, {need: done[need] for need in unit.needs})
            write_text(folder / f"{unit.name}.json", json.dumps(result, indent=1) + "\n")
            done[unit.name] = result
        yield unit, done[unit.name], new


def read_results(units: Sequence[Unit], folder: Path) -> Results:
    """The results that there are, by unit."""
    files = {unit.name: folder / f"{unit.name}.json" for unit in units}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}
