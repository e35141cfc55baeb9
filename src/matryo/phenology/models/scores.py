"""How good predictions of left-out rows are, and how much of that is chance."""

from dataclasses import dataclass

import numpy as np

from matryo.spine.seeding import numpy_generator

FEW = 10
"""Groups below which a percentile bootstrap is no interval: with six, the true coverage of "95 %" is nearer 80."""


@dataclass(frozen=True)
class Scores:
    """Scores of predictions of left-out rows.

    Attributes:
        rows: Rows predicted.
        r2: 1 − Σ(y − ŷ)²/Σ(y − ȳ)²; below 0 is worse than knowing the mean of the test rows.
        rmse: In the target's unit.
        mae: In the target's unit.
        intervals: 95 % of each, resampling plots with these years given; None with fewer than ten plots.
        years: Least and largest RMSE of a year: a range, not an interval.
        lag1: Correlation of the residuals of a plot in consecutive years.
        between_years: Share of the residuals' variance that lies between years.
        between_plots: The same between plots.
    """

    rows: int
    r2: float
    rmse: float
    mae: float
    intervals: dict[str, tuple[float, float]] | None
    years: tuple[float, float]
    lag1: float
    between_years: float
    between_plots: float


def score(
    y: np.ndarray, predicted: np.ndarray, plot: np.ndarray, year: np.ndarray, draws: int, seed: int
) -> Scores | None:
    """Score predictions (n,) of targets y (n,); rows with NaN have none. None if no row has one."""
    known = np.isfinite(predicted)
    if not known.any():
        return None
    y, predicted, plot, year = y[known], predicted[known], plot[known], year[known]
    residual = y - predicted
    sums = _sums(y, residual, plot)
    r2, rmse, mae = _scores(sums.sum(axis=0))
    intervals = None
    if len(sums) >= FEW:
        chosen = numpy_generator(seed, "bootstrap").integers(0, len(sums), (draws, len(sums)))
        drawn = np.array([_scores(sums[c].sum(axis=0)) for c in chosen])
        low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
        intervals = {name: (float(low[i]), float(high[i])) for i, name in enumerate(("r2", "rmse", "mae"))}
    each = [float(np.sqrt(np.mean(residual[year == one] ** 2))) for one in np.unique(year)]
    return Scores(
        len(y), r2, rmse, mae, intervals, (min(each), max(each)), _lag1(residual, plot, year),
        _share(residual, year), _share(residual, plot),
    )  # fmt: skip


def _sums(y: np.ndarray, residual: np.ndarray, plot: np.ndarray) -> np.ndarray:
    """n, Σy, Σy², Σr², Σ|r| of each plot: enough to score any resample of plots. y is centred first."""
    index = np.unique(plot, return_inverse=True)[1]
    centred = y - y.mean()
    columns = (np.ones(len(y)), centred, centred**2, residual**2, np.abs(residual))
    return np.stack([np.bincount(index, weights=column) for column in columns], axis=1)


def _scores(total: np.ndarray) -> tuple[float, float, float]:
    n, sy, syy, sse, absolute = total
    spread = syy - sy * sy / n
    return float(1 - sse / spread) if spread > 0 else np.nan, float(np.sqrt(sse / n)), float(absolute / n)


def _lag1(residual: np.ndarray, plot: np.ndarray, year: np.ndarray) -> float:
    order = np.lexsort((year, plot))
    r, p, t = residual[order], plot[order], year[order]
    pairs = (p[1:] == p[:-1]) & (t[1:] == t[:-1] + 1)
    a, b = r[:-1][pairs], r[1:][pairs]
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return np.nan
    return float(np.corrcoef(a, b)[0, 1])


def _share(residual: np.ndarray, labels: np.ndarray) -> float:
    """Intraclass correlation of one-way analysis of variance, σ_b²/(σ_b² + σ_w²), 0 at least."""
    index = np.unique(labels, return_inverse=True)[1]
    n, k = np.bincount(index), index.max() + 1
    if k < 2 or len(residual) <= k:
        return np.nan
    means = np.bincount(index, weights=residual) / n
    within = np.sum((residual - means[index]) ** 2) / (len(residual) - k)
    between = np.sum(n * (means - residual.mean()) ** 2) / (k - 1)
    size = (len(residual) - np.sum(n**2) / len(residual)) / (k - 1)
    variance = max((between - within) / size, 0.0)
    return float(variance / (variance + within)) if variance + within > 0 else np.nan
