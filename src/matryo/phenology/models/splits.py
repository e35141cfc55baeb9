"""Training and test rows: years left out, plots left out, and both at once."""

from dataclasses import dataclass

import numpy as np

from matryo.phenology.models.study import Study
from matryo.spine.seeding import numpy_generator


@dataclass(frozen=True)
class Split:
    """One fold: its name, and masks (n,) of its training and test rows. Rows in neither share a group with both."""

    name: str
    train: np.ndarray
    test: np.ndarray


def make_splits(study: Study, scheme: str, plot_folds: int, plots_by: str = "plot", seed: int = 0) -> list[Split]:
    """The folds of a scheme over all rows.

    year: each year in turn is the test. plot: each of `plot_folds` random groups of plots (or transects). both: each
    year with each group of plots: tested on that year's rows of that group, trained on rows of neither, so that
    neither the weather of the test year nor the test plots have been seen (leave location and time out).

    Raises:
        ValueError: There are too few years or plots for the scheme, or no transects where they are to be left out.
    """
    if plots_by not in study.keys:
        raise ValueError(f"no column {plots_by} to leave out; name it in the fit with --{plots_by}, or leave out plots")
    years, plots = study.season, assign_folds(study.group(plots_by), plot_folds, seed)
    if scheme != "plot" and len(np.unique(years)) < 2:
        raise ValueError(f"{study.target} has one year; expected at least 2 to leave years out, give --scheme plot")
    if scheme != "year" and len(np.unique(plots)) < 2:
        raise ValueError(
            f"{study.target} has one group of plots; expected at least 2 to leave plots out, give --scheme year"
        )
    by_year = [(str(year), years == year) for year in np.unique(years)]
    by_plot = [(f"plots {fold + 1}", plots == fold) for fold in np.unique(plots)]
    if scheme == "year":
        splits = [Split(name, ~test, test) for name, test in by_year]
    elif scheme == "plot":
        splits = [Split(name, ~test, test) for name, test in by_plot]
    else:
        splits = [Split(f"{y}, {p}", ~in_y & ~in_p, in_y & in_p) for y, in_y in by_year for p, in_p in by_plot]
    return [split for split in splits if split.test.any() and split.train.sum() >= 4]


def assign_folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """A fold number for each row, one for all rows of a label; labels are dealt out in random order."""
    levels, index = np.unique(labels, return_inverse=True)
    order = numpy_generator(seed, "folds").permutation(len(levels))
    return (np.argsort(order) % min(folds, len(levels)))[index]


def inner_splits(study: Study, train: np.ndarray, scheme: str, folds: int, plots_by: str, seed: int) -> list[Split]:
    """Folds within the training rows, of the outer kind: years, plots, or both dealt into `folds` groups.

    With both, fold i leaves out the i-th group of years and the i-th of plots.
    """
    masks = {}
    for kind, labels in (("year", study.season.astype(str)), ("plot", study.group(plots_by))):
        number = np.full(len(study), -1)
        number[train] = assign_folds(labels[train], folds, seed)
        masks[kind] = number
    splits = []
    for fold in range(folds):
        chosen = [kind for kind in ("year", "plot") if scheme in (kind, "both")]
        test = train & np.logical_and.reduce([masks[kind] == fold for kind in chosen])
        rest = train & np.logical_and.reduce([masks[kind] != fold for kind in chosen])
        if test.any() and rest.sum() >= 4:
            splits.append(Split(f"inner {fold + 1}", rest, test))
    return splits
