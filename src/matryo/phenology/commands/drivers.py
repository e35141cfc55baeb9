"""`matryo phenology drivers`: a fit, soil temperature and weather → models, explanations, slopes."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false, reportOperatorIssue=false, reportAssignmentType=false
# (pandas' inline types call its own everyday idioms errors)

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from matryo.phenology.commands.fit import write_problems
from matryo.phenology.commands.options import DriverOptions, as_text, part, tell
from matryo.spine.config import to_dict
from matryo.spine.progress import progress, say
from matryo.spine.run import FinishedRun, RunFolder, read_run

if TYPE_CHECKING:
    import pandas as pd

    from matryo.phenology.features import Daily
    from matryo.phenology.models import Study
    from matryo.phenology.series import Problems


def drivers(
    run: Path = Path("runs/latest"),
    *,
    options: Annotated[DriverOptions | None, Parameter(name="*")] = None,
    runs: Path = Path("runs"),
) -> None:
    """Explain the dates of a fit by soil temperature and weather: models, SHAP values, and slopes in days per °C.

    Windows end before the earliest date of the target in the training rows, so no driver looks past the event. Models are
    tested on years, plots, and both left out.

    Examples
    --------
        matryo phenology drivers runs/latest --target sos --model ols --model ridge --scheme year
        matryo phenology drivers --run runs/latest --soil soil.csv --weather weather.csv  # downloads nothing, needs the files
        matryo phenology drivers runs/latest --target pos --model ols --scheme year --window-days 30 --feature soil_t --feature air_t

    Parameters
    ----------
    run
        A finished fit, or a run made from one.
    runs
        Folder of the runs.
    """
    path, problems = drivers_run(run, options or DriverOptions(), runs)
    tell(problems)
    say(summary(path))
    say(f"slopes: {path / 'slopes.csv'}\nscores: {path / 'scores.csv'}", run=str(path))
    say(f"next: matryo phenology report {path}")


def drivers_run(fitted: Path, options: DriverOptions, runs: Path, name: str = "drivers") -> "tuple[Path, Problems]":
    """Model the targets of a fit into a new run folder."""
    import pandas as pd

    from matryo.phenology.explain import attribute, choose_model
    from matryo.phenology.explain.tables import attribution_tables, score_tables, slope_table
    from matryo.phenology.models import ModelConfig, count_folds, validate
    from matryo.phenology.series import Problems

    source, problems = fit_of(fitted), Problems()
    seasons = pd.read_parquet(source.path / source.outputs["seasons"])
    daily = _daily(source, seasons, options, problems)
    studies = {target: _study(target, source, seasons, daily, options, problems) for target in options.target}
    models = part(options, ModelConfig)
    # Counted here, so that what cannot be split is told before a run is made.
    fits = sum(count_folds(study, models) for study in studies.values())
    config = {"run": str(source.path), **to_dict(options)}
    with RunFolder.create(runs, name, "phenology drivers", config, [source.path]) as run:
        validations, attributions = [], []
        with progress("cross-validation", fits, "fits") as bar:
            for study in studies.values():
                validations += validate(study, models, bar.advance)
        scheme = options.scheme[-1] if options.scheme[-1] != "both" else options.scheme[0]
        explained = {t: options.explain for t in studies}
        with progress("explanations", sum(map(len, studies.values())), "rows") as bar:
            for target, study in studies.items():
                here = [v for v in validations if v.target == target]
                if options.explain == "best":
                    if not set(options.model) - {"mixed"}:
                        continue
                    explained[target] = choose_model(here, options.scheme[-1])
                chosen = next(v for v in here if v.model == explained[target] and v.scheme == scheme)
                attributions.append(attribute(study, chosen, bar.advance))
        tables: dict[str, Any] = score_tables(validations, studies) | attribution_tables(attributions, studies)
        tables["slopes"] = slope_table(studies, seasons, lambda t, s: _study(t, source, s, daily, options, Problems()))
        for key, table in tables.items():
            table.to_csv(run.path / f"{key}.csv", index=False)
            table.to_parquet(run.path / f"{key}.parquet", index=False)
        write_problems(run.path, problems)
        left_out = {target: study.left_out for target, study in studies.items()}
        run.finish({"tables": list(tables), "problems": "problems.csv", "left_out": left_out, "fit": source.path.name})
    return run.path, problems


def fit_of(path: Path) -> FinishedRun:
    """The fit at a path, or the one that the run there was made from."""
    run = read_run(path)
    if run.command == "phenology fit":
        return run
    for parent in run.parents:
        return fit_of(Path(parent))
    raise ValueError(f"{run.path} is a run of `{run.command}`; expected one of `phenology fit`, or made from one")


def _daily(
    source: FinishedRun, seasons: "pd.DataFrame", options: DriverOptions, problems: "Problems"
) -> "dict[str, Daily]":
    """Every variable that a driver needs, from the tables given or from the synthetic site's."""
    from matryo.phenology.features import read_daily
    from matryo.phenology.series import read_table

    needed = {"gdd": "air_t", "chill": "air_t"}
    variables = dict.fromkeys(needed.get(name, name) for name in options.feature)
    columns = {
        "soil_t": options.soil_column,
        "air_t": options.air_column,
        "precip": options.precip_column,
        "irradiance": options.irradiance_column,
    }
    found: dict[str, Daily] = {}
    for kind, given in (("soil", options.soil), ("weather", options.weather)):
        wanted = {name: columns[name] for name in variables if (name == "soil_t") == (kind == "soil")}
        if not wanted:
            continue
        own = source.outputs.get(f"{kind}_table")
        if given is None and own is None:
            names = ", ".join(wanted)
            raise ValueError(f"no table for {names}: give one with --{kind} FILE, or leave them out with --feature")
        path = given if given is not None else source.path / own
        found |= read_daily(read_table(path), wanted, seasons, problems, path.name, options.weather_date)
    return found


def _study(
    target: str,
    source: FinishedRun,
    seasons: "pd.DataFrame",
    daily: "dict[str, Daily]",
    options: DriverOptions,
    problems: "Problems",
) -> "Study":
    from matryo.phenology.features import FeatureConfig
    from matryo.phenology.models import make_study

    start = float(source.outputs["window"][0])
    return make_study(target, seasons, daily, part(options, FeatureConfig), options.exclude, problems, start)


def summary(path: Path) -> str:
    """Scores and soil slopes for a terminal."""
    import pandas as pd

    scores, slopes = pd.read_parquet(path / "scores.parquet"), pd.read_parquet(path / "slopes.parquet")
    lines = []
    for target, group in scores.groupby("target", sort=False):
        table = group.pivot_table(index="model", columns="scheme", values="rmse", sort=False, dropna=False)
        rows = [
            [str(name), *("n/a" if pd.isna(v) else f"{v:.3g}" for v in row)]
            for name, row in zip(table.index, table.to_numpy(), strict=True)
        ]
        lines.append(
            as_text(
                [f"{target} RMSE", *(f"{s} left out" if s != "both" else "both left out" for s in table.columns)], rows
            )
        )
    for row in slopes[(slopes["driver"] == "soil_t") & (slopes["definition"] == "")].itertuples():
        unit = "NDVI" if row.target == "peak" else "days"
        digits = 4 if row.target == "peak" else 2
        lines.append(
            f"{row.target}: {row.slope:+.{digits}f} {unit} per °C of soil, 95 % interval {row.low:.{digits}f} to "
            f"{row.high:.{digits}f} ({row.method}; {row.note})"
        )
    return "\n".join(lines)
