"""`matryo phenology report`: finished runs → one HTML page, with its tables beside it."""

import shutil
from pathlib import Path

from matryo.phenology.commands.drivers import fit_of
from matryo.spine.progress import say
from matryo.spine.run import RunFolder, read_run


def report(run: Path = Path("runs/latest"), *, runs: Path = Path("runs")) -> None:
    """Write the report of a drivers run, or of a fit alone: one HTML page, with CSV and Parquet tables beside it.

    Examples
    --------
        matryo phenology report runs/latest
        matryo phenology report --run runs/latest --runs more-runs

    Parameters
    ----------
    run
        A finished drivers run, or a fit.
    runs
        Folder of the runs.
    """
    path = report_run(run, runs)
    say(f"report (open it in a browser): {path / 'report.html'}\ntables: {path}", report=str(path / "report.html"))


def report_run(source: Path, runs: Path, name: str = "report") -> Path:
    """Write a report into a new run folder."""
    from matryo.phenology.report import load_results, write_page

    run = read_run(source)
    if run.command not in ("phenology fit", "phenology drivers", "phenology report"):
        raise ValueError(
            f"{run.path} is a run of `{run.command}`; expected one of `phenology drivers` or `phenology fit`"
        )
    if run.command == "phenology report":
        run = read_run(Path(run.parents[0]))
    fitted = fit_of(run.path)
    drivers = run if run.command == "phenology drivers" else None
    left_out = drivers.outputs["left_out"] if drivers else {}
    settings = drivers.config if drivers else {}
    results = load_results(fitted.path, fitted.outputs, drivers.path if drivers else None, settings, left_out)
    parents = [drivers.path] if drivers else [fitted.path]
    with RunFolder.create(runs, name, "phenology report", {"run": str(run.path)}, parents) as folder:
        write_page(results, folder.path / "report.html")
        for place in filter(None, (fitted.path, drivers.path if drivers else None)):
            for table in sorted((*place.glob("*.csv"), *place.glob("*.parquet"))):
                kept = table.name if table.stem != "problems" else f"{table.stem}-{place.name}{table.suffix}"
                shutil.copyfile(table, folder.path / kept)
        folder.finish({"report": "report.html"})
    return folder.path
