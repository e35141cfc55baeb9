"""The papers' claims as units of work that can be interrupted, and what they amount to. Imports no torch.

A unit is a harvest, a training run, one evaluation of one pair of autoencoders, or a toy world; its result is one JSON
file. The table is made of whatever results there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from matryo.sae.evaluate.intervals import Interval, mean_interval
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
    "Paired seeds of initial weights and batch order, for FVU, CE and the toy worlds."
    deep_seeds: int = 3
    "Paired seeds of absorption, probing and TPP."
    deep_k: int = 32
    ce_tokens: int = 4096
    toy_steps: int | None = None
    limits: dict[str, Any] = field(default_factory=dict)
    "Options of the deep tasks."


FULL = Form(recipe="smollm2")
SHORT = Form(
    recipe="tiny",
    values={"tokens": 30_000, "n_latents": (1024,), "passes": 3.0},
    k=(32,),
    seeds=2,
    deep_seeds=0,
    ce_tokens=2048,
    toy_steps=1_500,
)
DEEP = ("absorption", "probing", "tpp")
"""Evaluations of the pair at `deep_k`, one unit for each seed."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One piece of work, of at most 20 minutes on two cores in the full form."""

    name: str
    kind: Literal["toy", "harvest", "train", "evaluate"]
    needs: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)


def plan(form: Form, tasks: Sequence[str]) -> list[Unit]:
    """All units, in the order in which they are done; deep tasks only as far as there are such."""
    units = [Unit(name="toy-paper", kind="toy", values={"world": "paper", "seeds": list(range(form.seeds))})]
    units += [
        Unit(name=f"toy-generated-s{seed}", kind="toy", values={"world": "generated", "seeds": [seed]})
        for seed in range(form.seeds)
    ]
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


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a paper says of two kinds of autoencoder."""

    statement: str
    source: str
    theirs: str
    "The paper's own number, or that it shows curves only."
    where: str
    "Beginning of the units' names."
    score: str
    first: str
    second: str
    direction: str
    "How the second is expected to compare with the first: lower, higher or about the same."


_BTK, _MAT = "BatchTopK (2024)", "Matryoshka (2025)"
_PAIR = {"first": "batch_topk", "second": "matryoshka", "source": _MAT}
_TOY = {"first": "vanilla", "second": "matryoshka", "source": _MAT}
_GEMMA = "on Gemma-2-2B, 65k latents, L0 40"
_CURVES = "curves only"

CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            statement=f"BatchTopK {what} than {other}",
            source=_BTK,
            theirs=f"{_CURVES}, GPT-2 small, k = 16, 32, 64",
            where="basic",
            score=score,
            first=first,
            second="batch_topk",
            direction="lower",
        )
        for other, first in (("TopK", "topk"), ("JumpReLU", "jumprelu"))
        for what, score in (("reconstructs better (FVU)", "fvu"), ("costs the model less (CE)", "ce_cost"))
    ),
    Claim(statement="Matryoshka reconstructs a little worse (FVU)", theirs=f"0.28 → 0.30 {_GEMMA}", where="basic",
          score="fvu", direction="higher", **_PAIR),
    Claim(statement="Matryoshka costs the model about as much (CE)", theirs=_CURVES, where="basic", score="ce_cost",
          direction="about the same", **_PAIR),
    Claim(statement="Matryoshka's decoder rows overlap less", theirs=_CURVES, where="basic", score="decoder_cosine",
          direction="lower", **_PAIR),
    Claim(statement="Matryoshka absorbs less (first letter)", theirs=f"0.49 → 0.05 {_GEMMA}", where="absorption",
          score="fraction_absorption", direction="lower", **_PAIR),
    Claim(statement="Matryoshka splits fewer latents", theirs=f"3 → 1 {_GEMMA}", where="absorption",
          score="split_latents", direction="lower", **_PAIR),
    Claim(statement="Matryoshka's single best latent probes better", theirs=_CURVES, where="probing",
          score="top1_accuracy", direction="higher", **_PAIR),
    Claim(statement="Matryoshka's latents are more targeted (TPP)", theirs=_CURVES, where="tpp", score="tpp_20",
          direction="higher", **_PAIR),
    *(
        Claim(statement=f"{name}: {what}", theirs=theirs if where == "toy-paper" else "not in the paper", where=where,
              score=score, direction=direction, **_TOY)
        for name, where in (("toy tree", "toy-paper"), ("generated tree", "toy-generated"))
        for what, score, direction, theirs in (
            ("the parent's latent fires with its children", "parent_active", "higher", "shown in a figure"),
            ("children's latents absorb less", "absorption", "lower", "shown in a figure"),
            ("children's rows carry less of the parent", "mixing", "lower", "≈ 0.7 → ≈ 0, read off a figure"),
            ("rows are nearer to the truth", "cosine", "higher", "shown in a figure"),
            ("features are split less", "split", "lower", "not in the paper"),
            ("reconstruction is a little worse (FVU)", "fvu", "higher", "not in the paper"),
        )
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One claim at one k, as measured."""

    claim: Claim
    k: int | None
    first: Interval
    second: Interval
    difference: Interval
    "Paired over seeds: second − first."
    verdict: str
    l0: tuple[float, float]
    "Mean active latents of both: at another sparsity it is another comparison."


def lines(results: Results, units: Sequence[Unit]) -> list[Line]:
    """Every claim, as far as there are results; one line for each k."""
    told = []
    for claim in CLAIMS:
        for k, pairs in _values(claim, results, units).items():
            firsts, seconds = [a for a, _ in pairs], [b for _, b in pairs]
            difference = mean_interval([b - a for a, b in pairs])
            active = _values(replace(claim, score="l0"), results, units).get(k, [])
            l0 = mean_interval([a for a, _ in active]).mean, mean_interval([b for _, b in active]).mean
            verdict = judge(difference, claim.direction) if _comparable(claim, *l0) else "not comparable: L0 differs"
            told.append(Line(claim, k, mean_interval(firsts), mean_interval(seconds), difference, verdict, l0))
    return told


def _comparable(claim: Claim, first: float, second: float) -> bool:
    """Whether reconstructions are at about the same L0; 10 % of it move FVU by more than most of the claims do."""
    return claim.score not in ("fvu", "ce_cost") or claim.where != "basic" or abs(first - second) <= 0.1 * second


def judge(difference: Interval, direction: str) -> str:
    """What the interval of the paired difference says of a claim."""
    sides = {"lower": -1, "higher": 1}
    if difference.count < 2:
        return "one seed only"
    side = 1 if difference.low > 0 else -1 if difference.high < 0 else 0
    if direction == "about the same":
        return "no difference found" if side == 0 else f"differs: {'higher' if side > 0 else 'lower'}"
    if side == 0:
        return "not decided"
    return "reproduced" if side == sides[direction] else "contradicted"


def _values(claim: Claim, results: Results, units: Sequence[Unit]) -> dict[int | None, list[tuple[float, float]]]:
    """By k: the two scores of every seed."""
    found: dict[int | None, list[tuple[float, float]]] = {}
    for unit in units:
        if not unit.name.startswith(claim.where) or unit.name not in results:
            continue
        result = results[unit.name]
        if unit.kind == "toy":
            scores = [(result[claim.first][i], result[claim.second][i]) for i in range(len(result[claim.first]))]
        else:
            scores = [(result["scores"].get(claim.first, {}), result["scores"].get(claim.second, {}))]
        for a, b in scores:
            pair = a.get(claim.score), b.get(claim.score)
            if None not in pair:
                found.setdefault(unit.values.get("k"), []).append(pair)
    return found


def family(config: Mapping[str, Any]) -> str:
    """What a claim calls an autoencoder."""
    return "matryoshka" if config["levels"] != "none" else str(config["kind"])


def as_markdown(told: Sequence[Line]) -> str:
    """The table of docs/claims.md."""
    rows = [
        "| claim | paper | k | first | second | difference | seeds | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in told:
        claim = line.claim
        means = (claim.first, line.first.mean, line.l0[0]), (claim.second, line.second.mean, line.l0[1])
        shown = [f"{name} {mean:.4g}" + (f" (L0 {l0:.1f})" if l0 == l0 else "") for name, mean, l0 in means]
        values = f"{' | '.join(shown)} | {_told(line.difference)}"
        k = "–" if line.k is None else str(line.k)
        paper = f"{claim.source}: {claim.theirs}"
        rows.append(f"| {claim.statement} | {paper} | {k} | {values} | {line.difference.count} | {line.verdict} |")
    return "\n".join(rows) + "\n"


def _told(interval: Interval) -> str:
    if interval.count < 2:
        return f"{interval.mean:+.4g}"
    return f"{interval.mean:+.4g} [{interval.low:+.4g}, {interval.high:+.4g}]"
