"""What the results amount to: one line for every claim and k."""

from __future__ import annotations

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
