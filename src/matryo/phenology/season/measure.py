"""Metrics of many fitted curves at once."""

from dataclasses import dataclass

import numpy as np

from matryo.phenology.curves import Curve
from matryo.phenology.curves.blocks import run_blocks
from matryo.phenology.season.definitions import METRICS


@dataclass(frozen=True)
class Measured:
    """Metrics of n series: `values` and `errors` (standard errors) are (n, metrics), columns as in `METRICS`."""

    values: np.ndarray
    errors: np.ndarray

    def __getitem__(self, name: str) -> np.ndarray:
        """The values of one metric, (n,)."""
        return self.values[:, _place(name)]

    def error(self, name: str) -> np.ndarray:
        """The standard errors of one metric, (n,)."""
        return self.errors[:, _place(name)]


def _place(name: str) -> int:
    return [metric.name for metric in METRICS].index(name)


def measure(
    form: Curve, parameters: np.ndarray, covariance: np.ndarray, window: tuple[float, float], threads: int = 1
) -> Measured:
    """Read the season's metrics off n fitted curves.

    Args:
        form: The curve.
        parameters: (n, k), NaN rows where there is no fit.
        covariance: (n, k, k); NaN gives NaN standard errors.
        window: First and last day in which the season lies.
        threads: Threads; 0 for one per core.

    Returns:
        Values and standard errors; NaN where a metric does not exist in the window. The error of a flat derivative's
        root is the delta method's, first order: it is small against the curve's own time scale or it is not to be
        trusted.
    """
    from matryo.phenology.season.kernels import measure_block

    n = len(parameters)
    values, errors = np.empty((n, len(METRICS))), np.empty((n, len(METRICS)))
    p, c = np.ascontiguousarray(parameters), np.ascontiguousarray(covariance)

    def work(part: slice) -> None:
        measure_block(form.code, p[part], c[part], float(window[0]), float(window[1]), values[part], errors[part])

    run_blocks(work, n, threads)
    return Measured(values, errors)
