"""The rows of one question: a target with its errors, and drivers that depend on the training rows' cut-off."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false, reportOperatorIssue=false, reportAssignmentType=false
# (pandas' inline types call its own everyday idioms errors)

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matryo.phenology.features import (
    TARGETS,
    Daily,
    FeatureConfig,
    build_features,
    earliest,
    note_uncovered,
)
from matryo.phenology.series import Problems

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Study:
    """Rows of a target.

    Attributes:
        target: sos, pos, peak or eos.
        keys: plot, season, and site and transect where known: n rows.
        y: (n,) target.
        se: (n,) its standard errors.
        event: (n,) the day of the event itself, from which the cut-off is taken: that of the peak for PEAK.
        names: The drivers.
        drivers: Cut-off → (n, drivers).
        cutoff: A cut-off that was given; None to take it from the training rows.
        left_out: Flags (or reasons) of rows not used, and how many.
    """

    target: str
    keys: "pd.DataFrame"
    y: np.ndarray
    se: np.ndarray
    event: np.ndarray
    names: tuple[str, ...]
    drivers: Callable[[int], np.ndarray]
    cutoff: int | None
    left_out: dict[str, int]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.y)

    @property
    def plot(self) -> np.ndarray:
        """(n,) plot of each row."""
        return self.keys["plot"].to_numpy(dtype=str)

    @property
    def season(self) -> np.ndarray:
        """(n,) season of each row."""
        return self.keys["season"].to_numpy(dtype=int)

    def group(self, key: str) -> np.ndarray:
        """(n,) value of a key column, the plot where there is none."""
        return self.keys[key].astype("string").fillna("?").to_numpy(dtype=str) if key in self.keys else self.plot

    def design(self, training: np.ndarray) -> tuple[np.ndarray, int]:
        """Drivers of all rows (n, k), with the cut-off that the training rows (a mask) give."""
        cutoff = self.cutoff if self.cutoff is not None else earliest(self.event[training])
        return self.drivers(cutoff), cutoff


def make_study(
    target: str,
    seasons: "pd.DataFrame",
    daily: dict[str, Daily],
    features: FeatureConfig,
    exclude: tuple[str, ...],
    problems: Problems,
    season_start: float = 1.0,
) -> Study:
    """Choose the rows of a target: with a date and a standard error, drivers, and none of the excluding flags.

    Raises:
        ValueError: Fewer than eight rows are left, or all in one season.
    """
    column = TARGETS[target]
    event_column = "pos_doy" if target == "peak" else column
    flags = seasons["flags"].fillna("").astype(str).str.split(",")
    reason = flags.map(lambda names: next((name for name in names if name in exclude), ""))
    undated = seasons[column].isna() | ~(seasons[f"{column}_se"] > 0)
    reason = reason.where(reason != "", undated.map({True: "no date or standard error", False: ""}))
    rows = seasons[reason == ""].reset_index(drop=True)
    left_out = reason[reason != ""].value_counts().to_dict()
    keys = rows[[name for name in ("plot", "season", "site", "transect") if name in rows]]
    event = rows[event_column].to_numpy(dtype=float)
    if len(rows):
        cutoff = features.cutoff if features.cutoff is not None else earliest(event)
        found = build_features(keys, daily, cutoff, features, season_start)
        note_uncovered(keys, found, cutoff, target, problems)
        covered = found.notna().all(axis=1).to_numpy()
        if not covered.all():
            left_out["drivers not covered"] = int((~covered).sum())
        rows, keys, event = rows[covered], keys[covered].reset_index(drop=True), event[covered]
    if features.cutoff is not None and len(event) and features.cutoff > earliest(event):
        seen = int((event < features.cutoff).sum())
        said = f"windows end before day {features.cutoff}, after the {target} of {seen} of {len(event)} seasons"
        problems.add("drivers", f"{said}: they see days past the event, as nothing known beforehand could")
    if len(rows) < 8 or rows["season"].nunique() < 2:
        reasons = ", ".join(f"{name}: {count}" for name, count in left_out.items()) or "there are no more"
        raise ValueError(
            f"{target} has {len(rows)} usable rows in {rows['season'].nunique()} seasons; expected at least 8 in 2 "
            f"(left out: {reasons}); see --exclude, --cutoff and --feature"
        )

    def drivers(cutoff: int) -> np.ndarray:
        return build_features(keys, daily, cutoff, features, season_start).to_numpy(dtype=float)

    y, se = rows[column].to_numpy(dtype=float), rows[f"{column}_se"].to_numpy(dtype=float)
    return Study(target, keys, y, se, event, features.feature, drivers, features.cutoff, left_out)
