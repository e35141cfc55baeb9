"""What a report is made from: the tables of a fit, and of a drivers run where there is one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

DRIVER_TABLES = ("scores", "predictions", "folds", "shap", "effects", "fold_slopes", "slopes")


@dataclass(frozen=True)
class Results:
    """Tables and facts of a fit; `drivers` is empty where nothing was explained.

    Attributes:
        seasons: One row for each plot and season.
        visits: One row for each visit.
        problems: What could not be used.
        truth: The synthetic site's truth, or None.
        fit: Outputs and config of the fit.
        drivers: Tables of the drivers run by name.
        settings: Config of the drivers run.
        left_out: Rows left out of models by target and reason.
    """

    seasons: "pd.DataFrame"
    visits: "pd.DataFrame"
    problems: "pd.DataFrame"
    truth: "pd.DataFrame | None"
    fit: dict[str, Any]
    drivers: "dict[str, pd.DataFrame]"
    settings: dict[str, Any]
    left_out: dict[str, dict[str, int]]


def load_results(
    fit: Path, fit_outputs: dict[str, Any], drivers: Path | None, settings: dict[str, Any], left_out: dict[str, Any]
) -> Results:
    """Read the tables of finished runs."""
    import pandas as pd

    seasons = pd.read_parquet(fit / fit_outputs["seasons"])
    seasons["flags"] = seasons["flags"].fillna("")
    problems = [
        pd.read_csv(folder / "problems.csv", dtype=str, keep_default_na=False) for folder in (fit, drivers) if folder
    ]
    truth = pd.read_parquet(fit / fit_outputs["truth_table"]) if "truth_table" in fit_outputs else None
    tables = {name: pd.read_parquet(drivers / f"{name}.parquet") for name in DRIVER_TABLES} if drivers else {}
    return Results(
        seasons,
        pd.read_parquet(fit / fit_outputs["visits"]),
        pd.concat(problems, ignore_index=True),
        truth,
        fit_outputs,
        tables,
        settings,
        left_out,
    )
