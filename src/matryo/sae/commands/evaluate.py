"""`matryo sae evaluate`: finished training runs → one table, and a report."""

from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from matryo.sae.commands.options import EvaluateOptions, part
from matryo.sae.evaluate.evaluation import Evaluation, aligned
from matryo.sae.evaluate.subjects import open_subjects
from matryo.sae.evaluate.suite import QUICK, Suite, Task, named_tasks
from matryo.sae.sources import NamedSAE, read_saes, runs_of, sources_of
from matryo.spine.config import to_dict
from matryo.spine.progress import progress, say
from matryo.spine.run import RunFolder


def evaluate(
    run: tuple[str, ...] = ("runs/latest",),
    *,
    options: Annotated[EvaluateOptions | None, Parameter(name="*")] = None,
    runs: Path = Path("runs"),
    saebench: Path | None = None,
) -> None:
    """Measure trained autoencoders, several runs in one table: reconstruction, and whatever --tasks names.

    Without --tasks: reconstruction (FVU, L0, dead latents, decoder overlap on held-out tokens) and downstream (the
    model's cross-entropy and KL with the reconstruction in place). A task that cannot run is named, the others go on.
    Writes scores.json, CSV tables and report.html.

    Examples
    --------
        matryo sae evaluate runs/latest --ce-tokens 1024
        matryo sae evaluate --run runs/latest --tasks reconstruction --saebench saebench-results
        matryo sae evaluate runs/latest runs/latest@64 --ce-tokens 0

    Parameters
    ----------
    run
        Finished runs with SAEs, runs made from some, or single SAEs: RUN/saes/NAME, with @LEVEL behind it for its
        first latents.
    runs
        Folder of the runs.
    saebench
        Also write results in SAEBench's own format into this folder.
    """
    if saebench is not None:
        saebench.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made is said before the work
    path, found = evaluate_run(run, options or EvaluateOptions(), runs)
    say(as_text(found))
    if saebench is not None:
        from matryo.sae.evaluate.saebench import write_saebench

        for file in write_saebench(found, saebench):
            say(f"written: {file}", saebench=str(file))
    say(f"written: {path / 'scores.json'}\nreport (open it in a browser): {path / 'report.html'}", run=str(path))
    if all(one.outcome is None for one in found.measured):
        raise ValueError(f"nothing could be measured: {found.missing()[0]}")


def evaluate_run(
    trained: Iterable[str | Path], options: EvaluateOptions, runs: Path, name: str = "evaluate"
) -> tuple[Path, Evaluation]:
    """Measure SAEs of runs into a new run folder."""
    tasks = tasks_of(options)
    from matryo.sae.lm.load import usable_device

    usable_device(options.device)
    # Whatever can be refused without a run folder is refused before there is one.
    saes = read_saes(trained)
    groups = open_subjects(saes, options.device, options.lm_dtype)
    config = {"run": sources_of(saes, whole=True), **to_dict(options)}
    with RunFolder.create(runs, name, "sae evaluate", config, runs_of(saes)) as folder:
        suite = Suite(tasks, partial(part, options), _watch)
        of = {sae: run for group in groups for sae, run in group.runs.items()}
        configs = {sae: to_dict(one.config) for group in groups for sae, one in group.saes.items()}
        found = Evaluation(tuple(tasks), (), of, configs)
        outputs: dict[str, str] = {}
        try:
            for _ in suite.run(groups):
                # Whatever happens to the tasks that follow, this is kept.
                found = replace(found, measured=tuple(suite.measured))
                outputs = found.write(folder.path)
        except KeyboardInterrupt:
            if outputs:
                say(f"what was measured before the interruption: {folder.path / 'scores.json'}")
            raise
        from matryo.sae.evaluate.page import write_page

        write_page(found, folder.path / "report.html", "Evaluation", _line(saes, options))
        folder.finish(outputs | {"report": "report.html"})
    return folder.path, found


def tasks_of(options: EvaluateOptions) -> list[Task]:
    """The tasks asked for."""
    if options.tasks:
        return named_tasks(options.tasks)
    return named_tasks(name for name in QUICK if name != "downstream" or options.ce_tokens)


@contextmanager
def _watch(task: Task, subjects: Any) -> Any:
    with progress(f"{task.name} of {subjects.label}", unit=task.unit) as bar:
        yield bar


def _line(saes: list[NamedSAE], options: EvaluateOptions) -> str:
    tasks = "".join(f" --tasks {name}" for name in options.tasks)
    return f"matryo sae evaluate {' '.join(f'--run {source}' for source in sources_of(saes))}{tasks}"


def as_text(found: Evaluation) -> str:
    """The table, its notes and what is missing, for a terminal."""
    lines = [aligned([label for label, _ in found.headers], found.rows()), *found.notes()]
    return "\n".join([*lines, *(f"missing: {line}" for line in found.missing())])
