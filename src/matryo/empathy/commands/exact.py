"""`matryo empathy exact`: the gridworlds without sampling, and tables beside Coexistence."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from matryo.empathy.commands.options import EnvOptions
from matryo.spine.config import to_dict
from matryo.spine.progress import progress, say
from matryo.spine.run import RunFolder

if TYPE_CHECKING:
    from matryo.empathy.evaluate import CoexistenceChain


COEXISTENCE = {"steps": "steps", "killed": "kills", "got_killed": "died"}
SHARING = {
    "steps": "steps",
    "coins": "coins",
    "other_coins": "other's coins",
    "equality": "equality",
    "total": "return",
}
WIDTH = 26
"""Characters of a column: a median and its range."""


@dataclass(frozen=True, kw_only=True)
class ExactOptions(EnvOptions):
    """What is computed."""

    selfishness: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
    "β, repeatable, 0 to 1."
    seeds: int = 10
    "Coexistence: tables learned for each β, one row for each observation; 0 for none."
    transitions: int = 400_000
    "Coexistence: transitions that each table learns from."
    epsilon: float = 0.01
    "Share of random moves in what the tables and the policies are measured at."

    def __post_init__(self) -> None:
        """Check the values."""
        if self.env not in ("coexistence", "sharing"):
            raise ValueError(f"env is {self.env}; expected coexistence or sharing: only their positions are enumerated")
        rules = self.rules_config()
        if rules.others != 1:
            raise ValueError(f"others is {rules.others}; expected 1: with more there are too many positions")
        if self.env == "sharing":
            from matryo.empathy.evaluate.graph import LARGEST

            if rules.size > LARGEST:
                raise ValueError(f"size is {rules.size}; expected at most {LARGEST}: more coins, too many positions")
        for beta in self.selfishness:
            if not 0 <= beta <= 1:
                raise ValueError(f"selfishness is {beta}; expected 0 (only the other) to 1 (only itself)")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon is {self.epsilon}; expected 0 to 1")
        if self.seeds < 0 or self.transitions < 20:
            raise ValueError(f"seeds {self.seeds}, transitions {self.transitions}; expected 0 or more, and 20 or more")


def exact(*, options: Annotated[ExactOptions | None, Parameter(name="*")] = None, runs: Path = Path("runs")) -> None:
    """Compute what policies come to without sampling, from all positions of a gridworld.

    Coexistence: a Markov chain over both positions, and value iteration. "full state" is the paper's rule with both
    positions known. "table" is the same rule learned with one row for each observation of five cells across, in which
    many states look alike: what the network can at best tell apart.

    Sharing: every position that some play leads to. "true reward" is the best play of one that is paid
    β r + (1 − β) r′ and knows board and sweep, as of the `true_reward` agent: what empathy could come to.

    Examples
    --------
        matryo empathy exact --seeds 0
        matryo empathy exact --env sharing
        matryo empathy exact --rules published --selfishness 0.5 --selfishness 1 --seeds 2 --transitions 4000

    Parameters
    ----------
    runs
        Folder of the runs.
    """
    options = options or ExactOptions()
    rows_of, columns = {"coexistence": (_coexistence, COEXISTENCE), "sharing": (_sharing, SHARING)}[options.env]
    with RunFolder.create(runs, "exact", "empathy exact", options) as folder:
        rows = [
            {"policy": name, **{key: [getattr(outcome, key) for outcome in outcomes] for key in columns}}
            for name, outcomes in rows_of(options)
        ]
        told = {"env": options.env, "rules": to_dict(options.rules_config()), "policies": rows}
        (folder.path / "exact.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
        folder.finish({"exact": "exact.json"})
    learned = options.env == "coexistence" and options.seeds
    tables = f"; of tables the median over {options.seeds} seeds [lowest, highest]" if learned else ""
    say(f"{options.env.capitalize()}, ε = {options.epsilon:g}{tables}")
    say(f"{'':24}" + "".join(f"{title:>{WIDTH}}" for title in columns.values()))
    for row in rows:
        say(f"{row['policy']:24}" + "".join(f"{_shown(row[key]):>{WIDTH}}" for key in columns))
    say(f"written: {folder.path / 'exact.json'}", run=str(folder.path))


def _coexistence(options: ExactOptions) -> list[tuple[str, list[Any]]]:
    from matryo.empathy.agents import HarmlessAgent
    from matryo.empathy.envs import Coexistence
    from matryo.empathy.evaluate import CoexistenceChain

    chain = CoexistenceChain(Coexistence(options.rules_config()))
    actions = HarmlessAgent().select_action(chain.views)
    policies = {"random": chain.uniform(), "harmless": chain.of_views(actions, options.epsilon)}
    for beta in options.selfishness:
        policies[f"full state, β = {beta:g}"] = chain.greedy(chain.empathic_values(beta), options.epsilon)
    return [(name, [chain.outcome(policy)]) for name, policy in policies.items()] + _tables(chain, options)


def _sharing(options: ExactOptions) -> list[tuple[str, list[Any]]]:
    from matryo.empathy.envs import Sharing
    from matryo.empathy.evaluate import SharingGraph

    graph = SharingGraph(Sharing(options.rules_config()))
    policies = {"random": graph.uniform()}
    for beta in options.selfishness:
        policies[f"true reward, β = {beta:g}"] = graph.best(beta, epsilon=options.epsilon)
    return [(name, [graph.outcome(policy)]) for name, policy in policies.items()]


def _tables(chain: "CoexistenceChain", options: ExactOptions) -> list[tuple[str, list[Any]]]:
    from matryo.empathy.evaluate import learn_tables

    if not options.seeds:
        return []
    grid = [(beta, seed) for beta in options.selfishness for seed in range(options.seeds)]
    betas, seeds = zip(*grid, strict=True)
    with progress("tables", options.transitions // 20, "steps") as bar:
        tables = learn_tables(chain, betas, seeds, options.transitions, on_step=bar.advance)
    rows: dict[str, list[Any]] = {}
    for beta, table in zip(betas, tables, strict=True):
        outcome = chain.outcome(chain.greedy(table[chain.seen], options.epsilon))
        rows.setdefault(f"table, β = {beta:g}", []).append(outcome)
    return list(rows.items())


def _shown(values: list[float]) -> str:
    ordered = sorted(values)
    middle = f"{ordered[len(ordered) // 2]:.4g}"
    return middle if len(ordered) == 1 else f"{middle} [{ordered[0]:.3g}, {ordered[-1]:.3g}]"
