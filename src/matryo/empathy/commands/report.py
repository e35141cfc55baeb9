"""`matryo empathy report`: evaluations → one HTML page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryo.empathy.commands.evaluate import training_runs, world_of
from matryo.empathy.commands.replay import record_games
from matryo.spine.config import from_dict, to_dict
from matryo.spine.progress import say
from matryo.spine.run import FinishedRun, RunFolder, read_metrics, read_run

if TYPE_CHECKING:
    from matryo.empathy.report.page import Findings


def report(run: tuple[Path, ...] = (Path("runs/latest"),), *, game: int = 0, runs: Path = Path("runs")) -> None:
    """Write one page of evaluations: tables, every seed, curves, competing risks, exact answers, and a replay.

    Examples
    --------
        matryo empathy report runs/latest
        matryo empathy report --run runs/latest --game 2

    Parameters
    ----------
    run
        Finished runs of `matryo empathy evaluate`, one for each gridworld or set of rules, or runs made from such; and of
        `matryo empathy exact`, whose tables stand beside the evaluation by the same rules.
    game
        Number of the game that the replay shows.
    runs
        Folder of the runs.
    """
    path = report_run(run, game, runs)
    say(f"report (open it in a browser): {path / 'report.html'}", report=str(path / "report.html"))


def report_run(evaluated: tuple[Path, ...] | list[Path], game: int, runs: Path, name: str = "report") -> Path:
    """Write the report of some evaluations into a new run folder."""
    from matryo.empathy.report import write_report

    given = [read_run(path) for path in evaluated]
    exact = [run for run in given if run.command == "empathy exact"]
    found = {one.path: one for run in given if run not in exact for one in evaluations(run.path)}
    if not found:
        raise ValueError(f"{exact[0].path} is a run of `empathy exact`; expected one of `empathy evaluate` besides")
    findings = [gather(one, game, exact) for one in found.values()]
    finished = [*found.values(), *exact]
    config = {"run": [str(one.path) for one in finished], "game": game}
    with RunFolder.create(runs, name, "empathy report", config, [one.path for one in finished]) as folder:
        write_report(
            findings,
            folder.path / "report.html",
            "Empathic DQN on " + " and ".join(dict.fromkeys(f.world.name.capitalize() for f in findings)),
        )
        folder.finish({"report": "report.html"})
    return folder.path


def evaluations(path: Path) -> list[FinishedRun]:
    """The evaluation at a path, or those that the run there was made from."""
    run = read_run(path)
    if found := _evaluations(run):
        return found
    raise ValueError(f"{run.path} is a run of `{run.command}`; expected one of `empathy evaluate`, or made from one")


def _evaluations(run: FinishedRun) -> list[FinishedRun]:
    if run.command == "empathy evaluate":
        return [run]
    return [found for parent in run.parents for found in _evaluations(read_run(Path(parent)))]


def gather(evaluation: FinishedRun, game: int, exact: Sequence[FinishedRun] = ()) -> "Findings":
    """Read what a report shows of one evaluation and the training it is of."""
    import numpy as np
    from safetensors.numpy import load_file

    from matryo.empathy.evaluate import Comparison, Episodes, Group
    from matryo.empathy.report.page import Findings

    told = json.loads((evaluation.path / evaluation.outputs["evaluation"]).read_text(encoding="utf-8"))
    measured = told["measured"]
    groups = {m["epsilon"]: {g["name"]: from_dict(Group, g) for g in m["groups"]} for m in measured}
    comparisons = {m["epsilon"]: [from_dict(Comparison, c) for c in m["comparisons"]] for m in measured}
    parts: dict[tuple[str, int], dict[str, Any]] = {}
    first = f"{measured[0]['epsilon']:g}"
    for key, value in load_file(evaluation.path / evaluation.outputs["episodes"]).items():
        epsilon, group, seed, number = key.split("/")
        if epsilon == first:
            parts.setdefault((group, int(seed)), {})[number] = np.asarray(value)
    trained = training_runs(evaluation.path)
    world = world_of(trained[0])
    steps = ", ".join(sorted({f"{one.outputs['steps']:,}" for one in trained}))
    count = sum(len(one.outputs["members"]) for one in trained)
    about = [
        f"{world.name.capitalize()} on a {world.rules.size} × {world.rules.size} torus, others: {world.rules.others}; "
        f"{count} agents trained for {steps} steps; {evaluation.config['episodes']} episodes of each agent."
    ]
    recordings = record_games(trained[0], game=game)
    by_seed = {key: Episodes(**value) for key, value in parts.items()}
    tables = [policy for run in exact for policy in tables_of(run, world.rules)]
    return Findings(world, groups, comparisons, by_seed, curves(trained), about, recordings, tables)


def tables_of(exact: FinishedRun, rules: Any) -> list[dict[str, Any]]:
    """What an exact run says of its tables, if it is by the rules."""
    told = json.loads((exact.path / exact.outputs["exact"]).read_text(encoding="utf-8"))
    same = told["rules"] == to_dict(rules)
    return [policy for policy in told["policies"] if same and policy["policy"].startswith("table")]


CURVES = ("greedy_others_killed", "greedy_steps", "greedy_equality", "loss_emp")


def curves(trained: list[FinishedRun]) -> dict[str, dict[str, tuple[list[float], Any]]]:
    """What training logged, by number and group: the steps, and (points, seeds)."""
    import numpy as np

    found: dict[str, dict[str, tuple[list[float], Any]]] = {key: {} for key in CURVES}
    for run in trained:
        lines = read_metrics(run.path)
        for key in CURVES:
            for group in dict.fromkeys(name.rpartition("-s")[0] for name in run.outputs["members"]):
                names = [f"{name}/{key}" for name in run.outputs["members"] if name.rpartition("-s")[0] == group]
                rows = [line for line in lines if all(name in line for name in names)]
                if rows:
                    values = np.array([[float(line[name]) for name in names] for line in rows])
                    found[key][group] = ([line["step"] for line in rows], values)
    return {key: value for key, value in found.items() if value}
