"""`matryo phenology demo`: the whole job on a synthetic site, from visits to a report."""

import time
from pathlib import Path

from matryo.phenology.commands import drivers as drivers_command
from matryo.phenology.commands.drivers import drivers_run
from matryo.phenology.commands.fit import fit_run, summary
from matryo.phenology.commands.options import DriverOptions, FitOptions, tell
from matryo.phenology.commands.report import report_run
from matryo.phenology.models.config import ModelName
from matryo.phenology.synthetic.config import SOIL_SLOPE
from matryo.spine.progress import say


def demo(
    *,
    plots: int = 50,
    years: int = 6,
    model: tuple[ModelName, ...] = ("ols", "mixed", "ridge", "mlp", "boosting", "gp"),
    seed: int = 0,
    runs: Path = Path("runs"),
) -> None:
    """Fit, explain and report a synthetic warming-gradient site, whose truth is known.

    Three runs are made: the fit, the drivers, and the report, which a browser opens without a server. With all models it
    takes up to seven minutes of processor time, with --model ols --model ridge a quarter of one.

    Examples
    --------
        matryo phenology demo --plots 15 --years 3 --model ols --model mlp
        matryo phenology demo --plots 10 --years 3 --model ols --seed 1 --runs more-runs

    Parameters
    ----------
    plots
        Plots of the site, in transects of five.
    years
        Years from 2014 on; 3 or more.
    model
        Models to compare, repeatable: ols, mixed, ridge, mlp, boosting, gp.
    seed
        Seed of the site.
    runs
        Folder of the runs.
    """
    began = time.monotonic()
    if years < 3 or plots < 6:
        raise ValueError(
            f"{plots} plots and {years} years; expected at least 6 and 3, so that plots and years can be left out"
        )
    fitted, seasons, problems = fit_run("synthetic", FitOptions(plots=plots, years=years, seed=seed), runs, "demo-fit")
    tell(problems)
    say(summary(seasons))
    options = DriverOptions(model=model, plot_folds=3, target=("sos", "pos", "peak"))
    found, notes = drivers_run(fitted, options, runs, "demo-drivers")
    tell(notes)
    say(drivers_command.summary(found))
    say(f"the truth of this site: {SOIL_SLOPE} days per °C of soil for SOS and POS")
    page = report_run(found, runs, "demo-report") / "report.html"
    say(f"done in {time.monotonic() - began:.0f} s", seconds=round(time.monotonic() - began, 1))
    say(f"report (open it in a browser): {page}", report=str(page))
    say(f"seasons: {fitted / 'seasons.csv'}\nslopes: {found / 'slopes.csv'}\nscores: {found / 'scores.csv'}")
