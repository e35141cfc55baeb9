"""What was done, in the words a paper's methods section needs, and with what software."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from matryo.phenology.curves.forms import curve
from matryo.phenology.report.tables import Results
from matryo.phenology.season.definitions import DEFINITIONS

PACKAGES = (
    "matryo", "numpy", "scipy", "pandas", "numba", "scikit-learn", "statsmodels", "shap", "matplotlib", "pyarrow",
)  # fmt: skip

LOSS = {
    "none": "weighted least squares",
    "huber": "Huber's loss (turning point 1.345 s)",
    "bisquare": "Tukey's bisquare (turning point 4.685 s)",
}


def methods(results: Results) -> list[str]:
    """Paragraphs on the fit and, where there is one, the analysis of drivers."""
    form, loss = curve(results.fit["curve"]), LOSS[results.fit["robust"]]
    found = [
        f"Each plot and season was fitted by y = {form.equation} ({form.source}), by {loss} with a bounded "
        "Levenberg–Marquardt descent and analytic derivatives; flagged fits were started again from up to 16 shapes "
        "of a grid. The covariance of the parameters is σ²(JᵀWJ)⁻¹ with σ² from the residuals on n − p degrees of "
        "freedom, and the dates' standard errors follow by the delta method; intervals use t(n − p).",
        f"Start and end of season: {DEFINITIONS[results.fit['definition']]}. The peak is where the curve is highest.",
    ]
    if results.drivers:
        s = results.settings
        cutoff = f"day {s['cutoff']}" if s.get("cutoff") else "the earliest date of the target among the training rows"
        found += [
            f"Drivers ({', '.join(s['feature'])}) were taken from the {s['window_days']} days before {cutoff}: growing "
            f"degree days above {s['gdd_base']:g} °C from the season's first day, chilling as days from "
            f"{s['chill_low']:g} to {s['chill_high']:g} °C in the last 120 days. Nothing on or after that day enters. "
            "Rows weigh 1/(τ² + SE²), with τ² by Paule and Mandel's method. Settings were chosen by an inner "
            "cross-validation of the same kind within the training rows.",
            "Shapley values are exact, computed with the shap library over all coalitions, with the training rows as "
            "background; weather is also taken as one player. The soil slope is within years with two-way clusters of "
            "plots and years (Cameron, Gelbach and Miller), on t of the smaller number of clusters less one; weather "
            "slopes are clustered by year.",
            "The windows, network and cross-validation of the paper this follows are not known to us; these are ours.",
        ]
    return found


def versions() -> list[list[Any]]:
    """Package versions, and Python's."""
    rows: list[list[Any]] = [["Python", platform.python_version()]]
    for name in PACKAGES:
        try:
            rows.append([name, version(name)])
        except PackageNotFoundError:
            continue
    return rows
