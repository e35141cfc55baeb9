"""`matryo empathy exact`: Coexistence without sampling, and tables beside it."""

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


@dataclass(frozen=True, kw_only=True)
class ExactOptions(EnvOptions):
    """What is computed."""

    selfishness: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
    "β, repeatable, 0 to 1."
    seeds: int = 10
    "Tables learned for each β, one row for each observation; 0 for none."
    transitions: int = 400_000
    "Transitions that each table learns from."
    epsilon: float = 0.01
    "Share of random moves in what the tables and the policies are measured at."

    def __post_init__(self) -> None:
        """Check the values."""
        if self.env != "coexistence":
            raise ValueError(f"env is {self.env}; expected coexistence: only its states are few enough")
        self.rules_config()
        for beta in self.selfishness:
            if not 0 <= beta <= 1:
                raise ValueError(f"selfishness is {beta}; expected 0 (only the other) to 1 (only itself)")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon is {self.epsilon}; expected 0 to 1")
        if self.seeds < 0 or self.transitions < 20:
            raise ValueError(f"seeds {self.seeds}, transitions {self.transitions}; expected 0 or more, and 20 or more")


def exact(*, options: Annotated[ExactOptions | None, Parameter(name="*")] = None, runs: Path = Path("runs")) -> None:
    """Compute what policies come to in Coexistence: a Markov chain over all positions, and value iteration.

    "full state" is the paper's rule with both positions known. "table" is the same rule learned with one row for each
    observation of five cells across, in which many states look alike: what the network can at best tell apart.

    Examples
    --------
        matryo empathy exact --seeds 0
        matryo empathy exact --rules published --selfishness 0.5 --selfishness 1 --seeds 2 --transitions 4000

    Parameters
    ----------
    runs
        Folder of the runs.
    """
    from matryo.empathy.agents import HarmlessAgent
    from matryo.empathy.envs import Coexistence
    from matryo.empathy.evaluate import CoexistenceChain

    options = options or ExactOptions()
    chain = CoexistenceChain(Coexistence(options.rules_config()))
    with RunFolder.create(runs, "exact", "empathy exact", options) as folder:
        rows = [("random", [chain.outcome(chain.uniform())])]
        actions = HarmlessAgent().select_action(chain.views)
        rows.append(("harmless", [chain.outcome(chain.of_views(actions, options.epsilon))]))
        for beta in options.selfishness:
            policy = chain.greedy(chain.empathic_values(beta), options.epsilon)
            rows.append((f"full state, β = {beta:g}", [chain.outcome(policy)]))
        rows += _tables(chain, options)
        told = [
            {"policy": name, "steps": [o.steps for o in outs], "killed": [o.killed for o in outs],
             "got_killed": [o.got_killed for o in outs]}
            for name, outs in rows
        ]  # fmt: skip
        text = json.dumps({"rules": to_dict(chain.world.rules), "policies": told}, indent=1)
        (folder.path / "exact.json").write_text(text, encoding="utf-8")
        folder.finish({"exact": "exact.json"})
    say(f"Coexistence, ε = {options.epsilon:g}; of tables the median over {options.seeds} seeds [lowest, highest]")
    say(f"{'':24}{'steps':>26}{'kills':>26}{'died':>26}")
    for row in told:
        cells = (_shown(row[key]) for key in ("steps", "killed", "got_killed"))
        say(f"{row['policy']:24}" + "".join(f"{cell:>26}" for cell in cells))
    say(f"written: {folder.path / 'exact.json'}", run=str(folder.path))


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
