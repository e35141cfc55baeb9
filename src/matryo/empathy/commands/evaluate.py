"""`matryo empathy evaluate`: trained agents → what they do, greedily, in games of their own."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from matryo.empathy.commands.options import EvaluateOptions, TrainOptions
from matryo.spine.config import from_dict, to_dict
from matryo.spine.errors import unknown
from matryo.spine.progress import progress, say
from matryo.spine.run import FinishedRun, RunFolder, read_run

if TYPE_CHECKING:
    from matryo.empathy.envs import World
    from matryo.empathy.evaluate import Comparison, Group


def evaluate(
    run: tuple[Path, ...] = (Path("runs/latest"),),
    *,
    options: Annotated[EvaluateOptions | None, Parameter(name="*")] = None,
    runs: Path = Path("runs"),
) -> None:
    """Measure trained agents in greedy games apart from training: survival, kills, coins, equality.

    The random agent, and in Coexistence the one written by hand, play the same games. Interquartile means over seeds have
    95 % bootstrap intervals; groups are compared with the baseline seed by seed.

    Examples
    --------
        matryo empathy evaluate runs/latest --episodes 20
        matryo empathy evaluate --run runs/latest --episodes 5 --epsilon 0.05

    Parameters
    ----------
    run
        Finished training runs, of one gridworld and one set of rules; or runs made from some.
    runs
        Folder of the runs.
    """
    path, measured = evaluate_run(run, options or EvaluateOptions(), runs)
    say(as_text(measured))
    say(f"written: {path / 'evaluation.json'}", run=str(path))


@dataclass(frozen=True)
class Measured:
    """What was measured at one ε."""

    epsilon: float
    groups: "dict[str, Group]"
    comparisons: "list[Comparison]"


def evaluate_run(
    trained: Iterable[Path], options: EvaluateOptions, runs: Path, name: str = "evaluate"
) -> tuple[Path, list[Measured]]:
    """Measure training runs into a new run folder."""
    from safetensors.numpy import save_file

    finished = [run for path in trained for run in training_runs(path)]
    if not finished:
        raise ValueError("no run is given; expected one or more finished training runs")
    world = same_world(finished)
    groups = {name.rpartition("-s")[0] for run in finished for name in run.outputs["members"]} | {"random"}
    if options.baseline not in groups and options.baseline != EvaluateOptions.baseline:
        raise unknown("baseline", options.baseline, groups)
    config = {"run": [str(run.path) for run in finished], **to_dict(options)}
    with RunFolder.create(runs, name, "empathy evaluate", config, [run.path for run in finished]) as folder:
        arrays: dict[str, Any] = {}
        measured = [_measure(world, finished, options, epsilon, arrays) for epsilon in options.epsilon]
        save_file(arrays, folder.path / "episodes.safetensors")
        told = {"env": world.name, "rules": to_dict(world.rules), "measured": to_dict(_plain(measured))}
        (folder.path / "evaluation.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
        folder.finish({"evaluation": "evaluation.json", "episodes": "episodes.safetensors"})
    return folder.path, measured


def training_runs(path: Path) -> list[FinishedRun]:
    """The training run at a path, or those that the run there was made from, such as an evaluation's."""
    run = read_run(path)
    if run.command == "empathy train":
        return [run]
    found = {made.path: made for parent in run.parents for made in training_runs(Path(parent))}
    if not found:
        raise ValueError(f"{run.path} is a run of `{run.command}`; expected one of `empathy train`, or made from one")
    return list(found.values())


def world_of(run: FinishedRun) -> "World":
    """The gridworld that a training run played."""
    from matryo.empathy.envs import make_world

    options = from_dict(TrainOptions, run.config, where=str(run.path))
    return make_world(options.env, options.rules_config())


def same_world(finished: list[FinishedRun]) -> "World":
    """The gridworld of several training runs, which have to have the same."""
    world = world_of(finished[0])
    for run in finished[1:]:
        other = world_of(run)
        if (other.name, other.rules) != (world.name, world.rules):
            raise ValueError(f"{run.path} is of another world or rules than {finished[0].path}; expected one of both")
    return world


def _measure(
    world: "World", finished: list[FinishedRun], options: EvaluateOptions, epsilon: float, arrays: dict[str, Any]
) -> Measured:
    from matryo.empathy.agents import HarmlessAgent, RandomAgent, load_agent
    from matryo.empathy.envs import Coexistence
    from matryo.empathy.evaluate import compare, play, summarise

    members, played = [], []
    fixed: dict[str, Any] = {"random": RandomAgent(options.eval_seed)}
    if isinstance(world, Coexistence):  # whose weapons it was written for; in another world it may harm
        fixed["harmless"] = HarmlessAgent()
    with progress(f"episodes at ε = {epsilon:g}", None, "steps") as bar:
        for run in finished:
            agent = load_agent(run.path / run.outputs["agents"])
            members += [(member.group, member.seed) for member in agent.members]
            count = len(agent.members)
            played.append(
                play(world, lambda views, a=agent: a.select_action(views, 0), count, options.episodes,
                     options.eval_seed, epsilon, bar.advance)
            )  # fmt: skip
        for name, policy in fixed.items():
            members.append((name, 0))
            played.append(
                play(world, lambda views, p=policy: p.select_action(views), 1, options.episodes, options.eval_seed,
                     epsilon, bar.advance)
            )  # fmt: skip
    if len(set(members)) < len(members):
        twice = next(f"{g}-s{s}" for g, s in members if members.count((g, s)) > 1)
        raise ValueError(f"{twice} is in two of the runs; expected every member once")
    episodes = type(played[0]).joined(played)
    groups = summarise(members, episodes, options.resamples)
    for i, (group, seed) in enumerate(members):
        arrays |= {f"{epsilon:g}/{group}/{seed}/{key}": value for key, value in vars(episodes[i]).items()}
    return Measured(epsilon, groups, compare(groups, options.baseline, options.resamples))


def _plain(measured: list[Measured]) -> list[dict[str, Any]]:
    return [
        {"epsilon": item.epsilon, "groups": list(item.groups.values()), "comparisons": item.comparisons}
        for item in measured
    ]


def as_text(measured: list[Measured]) -> str:
    """The numbers as a table for the terminal."""
    lines = []
    for item in measured:
        coined = any(sum(group.per_seed["other_coins"]) for group in item.groups.values())
        shown = ("equality", "coins", "other_coins", "steps") if coined else ("steps", "others_killed", "got_killed")
        width = max(map(len, item.groups)) + 2
        lines.append(f"ε = {item.epsilon:g}: interquartile mean over seeds [95 % interval]")
        lines.append(" " * width + "".join(f"{head:>24}" for head in shown))
        for group in item.groups.values():
            cells = (group.iqm[metric] for metric in shown)
            told = (f"{c.value:.3g}" + (f" [{c.low:.3g}, {c.high:.3g}]" if len(group.seeds) > 1 else "") for c in cells)
            lines.append(f"{group.name:{width}}" + "".join(f"{cell:>24}" for cell in told))
        for one in item.comparisons:
            if one.metric == ("equality" if coined else "others_killed"):
                d = one.difference
                lines.append(
                    f"{one.baseline} − {one.group}, {one.metric}: {d.value:.3g} [{d.low:.3g}, {d.high:.3g}], "
                    f"{one.seeds} paired seeds"
                )
    return "\n".join(lines)
