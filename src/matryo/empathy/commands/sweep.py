"""`matryo empathy sweep`: train a grid, measure it, and write the report."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from matryo.empathy.commands.evaluate import as_text, evaluate_run
from matryo.empathy.commands.options import EvaluateOptions, SweepOptions, TrainOptions, part, resume_line
from matryo.empathy.commands.report import report_run
from matryo.empathy.commands.train import stop_on_interrupt, train_run
from matryo.spine.config import from_toml
from matryo.spine.progress import say


def sweep(
    recipe: str | None = None,
    *,
    options: Annotated[SweepOptions | None, Parameter(name="*")] = None,
    resume: Path | None = None,
    runs: Path = Path("runs"),
    log: tuple[str, ...] = (),
) -> int:
    """Train a grid of agents and seeds at once, measure them all, and write a report: three runs.

    The default grid is Empathic DQN at five values of selfishness with ten seeds, 200,000 steps: about half an hour on two
    idle cores. The schedule is shorter than the published one, see the recipes.

    Examples
    --------
        matryo empathy sweep --steps 300 --prefill 200 --epsilon-steps 200 --seeds 2 --selfishness 1 --selfishness 0.5 --episodes 5
        matryo empathy sweep sharing --steps 200 --prefill 200 --seeds 2 --selfishness 0.5 --episodes 5 --agent empathic --agent dqn

    Parameters
    ----------
    recipe
        Named config to start from; `matryo empathy recipes` lists them.
    resume
        Unfinished training run of a sweep to go on with; with its --episodes and other measuring flags given again.
    runs
        Folder of the runs.
    log
        Also log to tensorboard, wandb or trackio (each must be installed).
    """
    chosen = options or SweepOptions()
    name = recipe or "sweep"
    stored = from_toml(TrainOptions, resume / "config.toml") if resume is not None else None
    training = stored if stored and options is None else part(chosen, TrainOptions)
    with stop_on_interrupt() as should_stop:
        trained, finished = train_run(training, runs, f"{name}-train", resume, log, should_stop)
    if not finished:
        say(f"interrupted; {resume_line('sweep', trained)}", run=str(trained))
        return 130
    evaluated, measured = evaluate_run([trained], part(chosen, EvaluateOptions), runs, f"{name}-evaluate")
    page = report_run([evaluated], 0, runs, name)
    say(as_text(measured))
    say(f"trained: {trained}\nmeasured: {evaluated / 'evaluation.json'}")
    say(f"report (open it in a browser): {page / 'report.html'}", report=str(page / "report.html"))
    return 0
