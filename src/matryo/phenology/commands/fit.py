"""`matryo phenology fit`: NDVI series → a table of seasons."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false, reportOperatorIssue=false, reportAssignmentType=false
# (pandas' inline types call its own everyday idioms errors)

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from matryo.phenology.commands.options import FitOptions, as_text, part, tell
from matryo.spine.config import to_dict
from matryo.spine.progress import progress, say
from matryo.spine.run import RunFolder

if TYPE_CHECKING:
    import pandas as pd

    from matryo.phenology.features import Seasons
    from matryo.phenology.series import Problems, Series

SYNTHETIC = "synthetic"


def fit(
    data: str = SYNTHETIC,
    *,
    recipe: str = "plots",
    options: Annotated[FitOptions | None, Parameter(name="*")] = None,
    runs: Path = Path("runs"),
) -> None:
    """Fit season curves to NDVI series: start, peak and end of season with standard errors, and flags.

    Examples
    --------
        matryo phenology fit --plots 15 --years 4
        matryo phenology fit synthetic --curve elmore --robust bisquare --plots 10 --years 3 --definition trs50
        matryo phenology fit ndvi.csv --plot quadrat --ndvi NDVI --hemisphere south  # downloads nothing, but needs the file

    Parameters
    ----------
    data
        A long table (.csv, .tsv, .parquet) of visits with plot, date and NDVI, or synthetic for a made-up site.
    recipe
        Named config, see `matryo phenology recipes`.
    runs
        Folder of the runs.
    """
    path, table, problems = fit_run(data, options or FitOptions(), runs, recipe)
    tell(problems)
    say(summary(table))
    say(f"seasons: {path / 'seasons.csv'}", run=str(path), seasons=str(path / "seasons.csv"))
    say(f"next: matryo phenology drivers {path}")


def fit_run(data: str, options: FitOptions, runs: Path, name: str) -> "tuple[Path, pd.DataFrame, Problems]":
    """Fit the seasons of a table, or of the synthetic site, into a new run folder."""
    from matryo.phenology.clean import CleanConfig
    from matryo.phenology.features import fit_seasons
    from matryo.phenology.fit import FitConfig
    from matryo.phenology.series import ColumnConfig, Problems, pack_series, read_table
    from matryo.phenology.synthetic import SyntheticConfig, make_site

    problems, site = Problems(), None
    columns = part(options, ColumnConfig)
    if data == SYNTHETIC:
        site = make_site(part(options, SyntheticConfig), options.seed)
        table = site.ndvi.set_axis(range(2, len(site.ndvi) + 2))
        columns = ColumnConfig()
    else:
        table = read_table(Path(data), (columns.plot, columns.site or "site", columns.transect or "transect"))
    try:
        series = pack_series(table, columns, problems, SYNTHETIC if site else Path(data).name)
    except ValueError:
        tell(problems)  # they are the reason
        raise
    with RunFolder.create(runs, name, "phenology fit", {"data": data, "recipe": name, **to_dict(options)}) as run:
        with progress("fit", len(series), "seasons") as bar:
            found = fit_seasons(
                series, part(options, FitConfig), part(options, CleanConfig), options.definition, problems
            )
            bar.advance(len(series))
        _write(run.path, found, series, problems)
        outputs = {
            "seasons": "seasons.parquet",
            "visits": "visits.parquet",
            "problems": "problems.csv",
            "curve": options.curve,
            "definition": options.definition,
            "window": list(series.window),
            "data": data,
            "robust": options.robust,
        }
        if site is not None:
            for key in ("ndvi", "soil", "weather", "truth"):
                getattr(site, key).to_parquet(run.path / f"{key}.parquet", index=False)
                outputs[f"{key}_table"] = f"{key}.parquet"
        run.finish(outputs)
    return run.path, found.table, problems


def _write(path: Path, found: "Seasons", series: "Series", problems: "Problems") -> None:
    import numpy as np

    found.table.to_parquet(path / "seasons.parquet", index=False)
    found.table.to_csv(path / "seasons.csv", index=False)
    used = series.rows > 0
    i = np.nonzero(used)[0]
    keys = series.keys[["plot", "season"]].iloc[i].reset_index(drop=True)
    columns = {"row": series.rows[used], "doy": series.t[used], "ndvi": series.y[used], "weight": found.weights[used]}
    keys.assign(**columns).to_parquet(path / "visits.parquet", index=False)
    write_problems(path, problems)


def write_problems(path: Path, problems: "Problems") -> None:
    """Write what could not be used beside the tables, with all row numbers."""
    import pandas as pd

    rows = [(p.table, p.what, " ".join(map(str, p.rows)), " ".join(p.plots)) for p in problems.found]
    pd.DataFrame(rows, columns=["table", "problem", "rows", "plots"]).to_csv(path / "problems.csv", index=False)


def summary(table: "pd.DataFrame") -> str:
    """What was fitted, for a terminal: a line for each metric, and the flags."""
    names = {"sos_doy": "SOS", "pos_doy": "POS", "eos_doy": "EOS", "los_days": "length", "peak_ndvi": "PEAK"}
    rows = []
    good = table[table["flags"] == ""]
    for column, name in names.items():
        numbers = [good[column].median(), good[f"{column}_se"].median(), good[column].min(), good[column].max()]
        digits = ".3f" if column == "peak_ndvi" else ".1f"
        rows.append(
            [name, column.rsplit("_", 1)[1].replace("doy", "day"), *(f"{number:{digits}}" for number in numbers)]
        )
    flags = table["flags"][table["flags"] != ""].str.split(",").explode().value_counts()
    said = ", ".join(f"{count} {name}" for name, count in flags.items()) or "none"
    head = f"{len(table):,} seasons of {table['plot'].nunique():,} plots, {len(good):,} without a flag; flags: {said}"
    if not len(good):
        return head
    return f"{head}\n{as_text(['unflagged', 'unit', 'median', 'median SE', 'least', 'largest'], rows)}"
