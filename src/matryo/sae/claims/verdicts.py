"""What the results amount to: one line for every claim and k."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace

from matryo.sae.claims.statements import CLAIMS, Claim
from matryo.sae.claims.units import Results, Unit
from matryo.sae.evaluate.intervals import Interval, mean_interval


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
    equal_l0: Interval | None = None
    "The difference at the second's L0, where the first was measured at several k; the verdict is then of this one."


def lines(results: Results, units: Sequence[Unit]) -> list[Line]:
    """Every claim, as far as there are results; one line for each k."""
    told = []
    for claim in CLAIMS:
        for k, pairs in _values(claim, results, units).items():
            firsts, seconds = [a for a, _ in pairs], [b for _, b in pairs]
            difference = mean_interval([b - a for a, b in pairs])
            active = _values(replace(claim, score="l0"), results, units).get(k, [])
            l0 = mean_interval([a for a, _ in active]).mean, mean_interval([b for _, b in active]).mean
            moved = _at_equal_l0(claim, results, units).get(k, [])
            equal = mean_interval(moved) if len(moved) == len(pairs) else None
            comparable = _comparable(claim, *l0)
            verdict = judge(equal or difference, claim.direction) if comparable else "not comparable: L0 differs"
            told.append(Line(claim, k, mean_interval(firsts), mean_interval(seconds), difference, verdict, l0, equal))
    return told


def _comparable(claim: Claim, first: float, second: float) -> bool:
    """Whether reconstructions are at about the same L0; 10 % of it move FVU by more than most of the claims do."""
    return not _moves_with_l0(claim) or abs(first - second) <= 0.1 * second


def _moves_with_l0(claim: Claim) -> bool:
    return claim.where == "basic" and claim.score in ("fvu", "ce_cost")


def _at_equal_l0(claim: Claim, results: Results, units: Sequence[Unit]) -> dict[int | None, list[float]]:
    """By k: paired differences, the first's score moved to the second's L0.

    It is moved along the line in log L0 through what the first has at the two nearest k of the same seed.
    """
    basic = [unit for unit in units if unit.name.startswith("basic") and unit.name in results]
    curves: dict[int, list[tuple[float, float]]] = {}
    pairs, kinds = [], (claim.first, claim.second)
    for unit in basic if _moves_with_l0(claim) else []:
        scores = results[unit.name]["scores"]
        first, second = ({key: scores.get(kind, {}).get(key) for key in ("l0", claim.score)} for kind in kinds)
        if None not in (*first.values(), *second.values()):
            curves.setdefault(unit.values["seed"], []).append((math.log(first["l0"]), first[claim.score]))
            pairs.append((unit.values, math.log(second["l0"]), second[claim.score]))
    found: dict[int | None, list[float]] = {}
    for values, at, score in pairs:
        curve = sorted(curves[values["seed"]])
        if len(curve) > 1:
            upper = min(max(bisect(curve, (at,)), 1), len(curve) - 1)
            (a, b), (c, d) = curve[upper - 1 : upper + 1]
            found.setdefault(values["k"], []).append(score - (b + (d - b) * (at - a) / (c - a)))
    return found


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
        if unit.kind.startswith("toy"):
            scores = [(result[claim.first][i], result[claim.second][i]) for i in range(len(result[claim.first]))]
        else:
            scores = [(result["scores"].get(claim.first, {}), result["scores"].get(claim.second, {}))]
        for a, b in scores:
            pair = a.get(claim.score), b.get(claim.score)
            if None not in pair:
                found.setdefault(unit.values.get("k"), []).append(pair)
    return found


def as_markdown(told: Sequence[Line]) -> str:
    """The table of docs/claims.md."""
    rows = [
        "| claim | paper | k | first | second | difference | at equal L0 | seeds | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in told:
        claim = line.claim
        means = (claim.first, line.first.mean, line.l0[0]), (claim.second, line.second.mean, line.l0[1])
        shown = [f"{name} {mean:.4g}" + (f" (L0 {l0:.1f})" if l0 == l0 else "") for name, mean, l0 in means]
        values = f"{' | '.join(shown)} | {_told(line.difference)} | {_told(line.equal_l0)}"
        k = "–" if line.k is None else str(line.k)
        paper = f"{claim.source}: {claim.theirs}"
        rows.append(f"| {claim.statement} | {paper} | {k} | {values} | {line.difference.count} | {line.verdict} |")
    return "\n".join(rows) + "\n"


def _told(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    if interval.count < 2:
        return f"{interval.mean:+.4g}"
    return f"{interval.mean:+.4g} [{interval.low:+.4g}, {interval.high:+.4g}]"
