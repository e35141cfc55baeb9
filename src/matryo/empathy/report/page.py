"""The report: one HTML page from an evaluation, its training, and games to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from matryo.empathy.envs import Coexistence, RulesConfig, Sharing, World, make_rules
from matryo.empathy.evaluate import CoexistenceChain, Comparison, Episodes, Group, Recording, SharingGraph
from matryo.empathy.evaluate.graph import LARGEST
from matryo.empathy.report.player import player_fragment
from matryo.empathy.report.plots import draw_coins, draw_curves, draw_groups, draw_incidence, label
from matryo.spine import report
from matryo.spine.config import diff, to_dict

FIXED = ("random", "harmless")
EXACT_BETAS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
"""β of which reports show exact answers."""
MEANINGS = {
    "steps": "steps survived",
    "others_killed": "others killed per episode",
    "got_killed": "share of episodes in which the learner died",
    "total": "return, undiscounted",
    "coins": "coins the learner took",
    "other_coins": "coins the other took (mean of several)",
    "equality": "2·min(R, R′)/(R + R′), R and R′ what both agents' coins were worth",
}
NAMES = {
    "steps": "steps",
    "others_killed": "kills",
    "got_killed": "died",
    "total": "return",
    "coins": "coins",
    "other_coins": "other's coins",
    "equality": "equality",
}


@dataclass(frozen=True)
class Findings:
    """What a report of one gridworld is made from."""

    world: World
    groups: dict[float, dict[str, Group]]
    "by ε"
    comparisons: dict[float, list[Comparison]]
    episodes: dict[tuple[str, int], Episodes]
    "by group and seed, at the first ε: arrays (E,)"
    curves: dict[str, dict[str, tuple[list[float], np.ndarray]]]
    "by number and group: steps, (points, seeds)"
    about: list[str]
    recordings: list[Recording] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    "of `exact`: policy, and steps, killed, got_killed of every seed"


def write_report(findings: Sequence[Findings], path: Path, title: str) -> None:
    """Write the page; each gridworld has sections of its own."""
    page = report.Report(title, "Empathic DQN: what agents do to others when they imagine being in their place")
    names = [one.world.name for one in findings]
    for one in findings:
        rules = (
            " by the published rules" if one.world.rules == make_rules("published", size=one.world.rules.size) else ""
        )
        where = f"{one.world.name}{rules if names.count(one.world.name) > 1 else ''}: " if len(names) > 1 else ""
        _measurements(page, one, where.capitalize())
        if one.recordings:
            page.section(
                f"{where}replay".capitalize(),
                "The same game, played by several agents.",
                player_fragment(one.recordings),
            )
        if one.curves:
            page.section(f"{where}training".capitalize(), *_training(one))
        if isinstance(one.world, Coexistence) and one.world.rules.others == 1:
            page.section(f"{where}exact answers".capitalize(), *_exact(one.world, one.tables))
        if isinstance(one.world, Sharing) and one.world.rules.others == 1 and one.world.rules.size <= LARGEST:
            page.section(f"{where}exact answers".capitalize(), *_exact_shares(one.world))
    page.write(path)


def shown_metrics(world: World) -> list[str]:
    """Numbers that say something in a world."""
    if world.has_coins:
        return ["equality", "coins", "other_coins", "total", "steps"]
    return ["steps", "others_killed", "got_killed"]


def _measurements(page: report.Report, one: Findings, where: str) -> None:
    metrics = shown_metrics(one.world)
    first, *_ = one.groups
    groups = list(one.groups[first].values())
    tables = [_table(groups_at, epsilon, metrics) for epsilon, groups_at in one.groups.items()]
    main = "equality" if one.world.has_coins else "others_killed"
    figures = [_seeds(groups, m, first) for m in ([main, "steps"] if main != "equality" else [main])]
    if one.world.has_coins:
        figures.append(report.figure(draw_coins(groups), COINS))
    else:
        figures.append(report.figure(_risks(one, groups), RISKS))
    page.section(f"{where}measurements".capitalize(), *one.about, _rules(one.world.rules), *tables, *figures)
    if rows := _comparisons(one, main):
        better = "a fairer share." if one.world.has_coins else "less harm, or more steps survived."
        page.section(f"{where}differences".capitalize(), DIFFERENCES + better, rows)


def _seeds(groups: Sequence[Group], metric: str, epsilon: float) -> Any:
    meaning = MEANINGS[metric][0].upper() + MEANINGS[metric][1:]
    caption = (
        f"{meaning}, at ε = {epsilon:g}: every dot is a seed, the bar the interquartile mean with its 95 % interval."
    )
    return report.figure(draw_groups(groups, metric, NAMES[metric]), caption)


RISKS = (
    "Cumulative incidence over all seeds' episodes: the share in which by that step the other had been killed "
    "(solid) and in which the learner had died (dashed). An early death is a competing risk: it leaves no time to "
    "kill, so that few kills alone are no sign of care."
)
DIFFERENCES = (
    "Baseline minus group, seed by seed, with a 95 % bootstrap interval over the paired seeds; and the probability "
    "that a run of the group does better than one of the baseline: "
)
EXACT = (
    "Computed, not sampled: Coexistence as a Markov chain over all positions of both agents. “Full state” is the same "
    "rule, β Q + (1 − β)·(value of the other's seat), by value iteration with both positions known, where the agent of "
    "the paper sees five cells across."
)
TABLES = (
    "The same rule learned with one table row for each observation, where a dead other looks like one out of sight: "
    "median over seeds [lowest, highest], each table's policy computed exactly."
)
EXACT_SHARES = (
    "Computed, not sampled, from all positions that some play leads to: the best play of one that is paid β times its "
    "own coins and 1 − β times the other's, looks ahead at γ = 0.99, and knows the board and the sweep. So much could "
    "be reached; the agents above see five cells across."
)
COINS = "Both agents' coins; on the dashed line all are taken, on the dotted one both have as many."


def _table(groups: dict[str, Group], epsilon: float, metrics: list[str]) -> Any:
    rows = []
    for group in groups.values():
        cells = []
        for metric in metrics:
            middle = group.iqm[metric]
            shown = f"{middle.value:.3g}"
            cells.append(shown if len(group.seeds) == 1 else f"{shown} [{middle.low:.3g}, {middle.high:.3g}]")
        rows.append([label(group.name), len(group.seeds), *cells])
    said = MEANINGS | (
        {"steps": "steps until the last coin was taken, or the time limit"} if "coins" in metrics else {}
    )
    heads: list[str | tuple[str, str]] = ["agent", "seeds", *((NAMES[m], said[m]) for m in metrics)]
    return report.table(
        heads,
        rows,
        f"Greedy episodes apart from training, ε = {epsilon:g}; interquartile mean [95 % interval] over seeds.",
    )


def _rules(rules: RulesConfig) -> Any:
    published = make_rules("published")
    named = [name for name, preset in (("published", published), ("corrected", RulesConfig())) if rules == preset]
    if named:
        return report.text(f"Rules: {named[0]}.")
    changes = "; ".join(diff(to_dict(RulesConfig()), to_dict(rules)))
    return report.text(f"Rules: corrected but for {changes}.")


def _comparisons(one: Findings, main: str) -> Any:
    rows = []
    for epsilon, comparisons in one.comparisons.items():
        for c in comparisons:
            if c.metric in ((main,) if one.world.has_coins else (main, "steps")):  # to take coins slowly is not better
                d, p = c.difference, c.improvement
                rows.append(
                    [f"{label(c.baseline)} − {label(c.group)}", NAMES[c.metric], f"{epsilon:g}",
                     f"{d.value:.3g} [{d.low:.3g}, {d.high:.3g}]", "yes" if d.excludes(0) else "no",
                     f"{p.value:.2f} [{p.low:.2f}, {p.high:.2f}]", c.seeds]
                )  # fmt: skip
    heads = ["difference", "of", "ε", "mean [95 %]", "excludes 0", "P(group better)", "seeds"]
    return report.table(heads, rows) if rows else None


def _risks(one: Findings, groups: Sequence[Group]) -> str:
    events = {}
    for group in groups:
        if group.name in FIXED:
            continue
        mine = [e for (name, _), e in one.episodes.items() if name == group.name]
        kill = np.concatenate([e.kill_step for e in mine])
        death = np.concatenate([e.steps * (e.got_killed > 0) for e in mine])
        events[group.name] = {"kills": kill, "dies": death}
    return draw_incidence(events, one.world.limit)


def _training(one: Findings) -> list[Any]:
    said = {
        "greedy_others_killed": "Others killed per greedy episode, during training.",
        "greedy_steps": "Steps survived in greedy episodes, during training.",
        "greedy_equality": "Equality in greedy episodes, during training.",
    }
    keys = ["greedy_equality"] if one.world.has_coins else ["greedy_others_killed", "greedy_steps"]
    drawn = [
        report.figure(draw_curves(one.curves[key], NAMES[key.removeprefix("greedy_")]),
                      f"{said[key]} Interquartile mean over seeds, every seed faintly.")
        for key in keys if one.curves.get(key)
    ]  # fmt: skip
    if one.curves.get("loss_emp"):
        drawn.append(
            report.figure(
                draw_curves(one.curves["loss_emp"], "mean squared error", logy=True), "Q_emp's loss before each update."
            )
        )
    return drawn


def _exact(world: Coexistence, tables: Sequence[dict[str, Any]]) -> list[Any]:
    from matryo.empathy.agents import HarmlessAgent

    chain, rows = CoexistenceChain(world), []
    policies = {"random": chain.uniform(), "harmless": chain.of_views(HarmlessAgent().select_action(chain.views))}
    policies |= {f"full state, β = {b:g}": chain.greedy(chain.empathic_values(b)) for b in EXACT_BETAS}
    for name, policy in policies.items():
        out = chain.outcome(policy)
        rows.append([name, round(out.steps, 1), round(out.killed, 4), round(out.got_killed, 4)])
    html = [EXACT, report.table(["policy", "steps", "kills", "died"], rows)]
    if tables:
        cells = [
            [t["policy"], len(t["steps"]), *(_spread(t[k]) for k in ("steps", "killed", "got_killed"))] for t in tables
        ]
        html += [TABLES, report.table(["policy", "seeds", "steps", "kills", "died"], cells)]
    return html


def _exact_shares(world: Sharing) -> list[Any]:
    graph, rows = SharingGraph(world), []
    policies = {"random": graph.uniform()}
    policies |= {f"true reward, β = {b:g}": graph.best(b) for b in EXACT_BETAS}
    for name, policy in policies.items():
        out = graph.outcome(policy)
        rows.append([name, round(out.equality, 3), round(out.coins, 2), round(out.other_coins, 2), round(out.steps, 1)])
    return [EXACT_SHARES, report.table(["policy", "equality", "coins", "other's coins", "steps"], rows)]


def _spread(values: Sequence[float]) -> str:
    return f"{np.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"
