"""`matryo empathy demo`: a small sweep of both gridworlds, its report, and replays, in minutes."""

import time
from pathlib import Path
from typing import Any, Literal

from matryo.empathy.commands.evaluate import as_text, evaluate_run, training_runs
from matryo.empathy.commands.options import EvaluateOptions, SweepOptions, TrainOptions, part
from matryo.empathy.commands.replay import record_games, write_replays
from matryo.empathy.commands.report import report_run
from matryo.empathy.commands.train import train_run
from matryo.empathy.recipes import recipe
from matryo.spine.progress import say
from matryo.spine.run import RunFolder


def demo(
    *,
    env: Literal["both", "coexistence", "sharing"] = "both",
    steps: int | None = None,
    seeds: int | None = None,
    runs: Path = Path("runs"),
) -> None:
    """Train agents of three degrees of selfishness, measure whom they harm, and show them at play.

    For each gridworld three runs are made (training, evaluation, replay), and one report of all. Up to five minutes on two
    cores; the agents have then seen a tenth of what a sweep shows them.

    Examples
    --------
        matryo empathy demo --env coexistence --steps 200 --seeds 1
        matryo empathy demo --env sharing --steps 200 --seeds 2 --runs more-runs

    Parameters
    ----------
    env
        Which gridworld, or both.
    steps
        Training steps; the recipe's own number when not given.
    seeds
        Seeds of each agent; the recipe's own number when not given.
    runs
        Folder of the runs.
    """
    began, evaluated = time.monotonic(), []
    values: dict[str, Any] = recipe("demo")
    if steps is not None:
        values |= {"steps": steps, "epsilon_steps": max(1, steps * 6 // 10), "prefill": max(32, min(2000, steps))}
        values |= {"log_every": max(1, steps // 20), "evaluate_every": max(1, steps // 10)}
    if seeds is not None:
        values["seeds"] = seeds
    for world in ("coexistence", "sharing") if env == "both" else (env,):
        chosen: dict[str, Any] = {**values, "env": world}
        options = SweepOptions(**chosen)
        trained, finished = train_run(part(options, TrainOptions), runs, f"demo-{world}-train")
        assert finished
        path, measured = evaluate_run([trained], part(options, EvaluateOptions), runs, f"demo-{world}-evaluate")
        say(f"{world}: {as_text(measured[:1])}")
        say(f"replay: {_replay(trained, runs, world)}")
        evaluated.append(path)
    page = report_run(evaluated, 0, runs, "demo") / "report.html"
    say(f"done in {time.monotonic() - began:.0f} s", seconds=round(time.monotonic() - began, 1))
    say(f"report (open it in a browser): {page}", report=str(page))


def _replay(trained: Path, runs: Path, world: str) -> Path:
    recordings = record_games(training_runs(trained)[0])
    with RunFolder.create(runs, f"demo-{world}-replay", "empathy replay", {"run": str(trained)}, [trained]) as folder:
        outputs = write_replays(recordings, folder.path, "both", 120)
        folder.finish(outputs)
    return folder.path / outputs["gif"]
