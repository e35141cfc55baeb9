"""Which models are compared, how they are tuned and tested. Imports no scikit-learn, so that help stays quick."""

from dataclasses import dataclass
from typing import Any, Literal

ModelName = Literal["ols", "mixed", "ridge", "mlp", "boosting", "gp"]
SchemeName = Literal["year", "plot", "both"]

BASELINES = {
    "mean": "the mean of the training rows",
    "plot_mean": "the plot's mean in the training rows; n/a for plots that were left out",
    "year_mean": "the year's mean in the training rows; n/a for years that were left out",
}
MODELS = {
    "ols": "linear regression, weighted",
    "mixed": "linear mixed model with crossed plot, transect and year intercepts",
    "ridge": "linear regression with an L2 penalty",
    "mlp": "neural network with one hidden layer of eight",
    "boosting": "gradient-boosted trees",
    "gp": "Gaussian process, one length scale for each driver",
}
SCHEMES = {"year": "leave one year out", "plot": "leave plots out", "both": "leave a year and plots out"}

GRIDS: dict[str, tuple[dict[str, Any], ...]] = {
    "ridge": tuple({"alpha": alpha} for alpha in (0.1, 1.0, 10.0, 100.0, 1000.0)),
    "mlp": tuple({"alpha": alpha} for alpha in (0.1, 3.0, 30.0)),
    "boosting": ({"max_depth": 1}, {"max_depth": 3}),
}
"""Settings among which the inner cross-validation chooses; the other models have none (the Gaussian process sets its
own by marginal likelihood)."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Models and how they are validated."""

    model: tuple[ModelName, ...] = ("ols", "mixed", "ridge", "mlp", "boosting", "gp")
    "Models, repeatable: ols, mixed, ridge, mlp, boosting, gp; the baselines always run."
    scheme: tuple[SchemeName, ...] = ("year", "plot", "both")
    "What cross-validation leaves out, repeatable: year, plot, both."
    plot_folds: int = 5
    "Groups of plots that are left out in turn."
    plots_by: Literal["plot", "transect"] = "plot"
    "Whether those groups are made of plots or of whole transects."
    inner_folds: int = 3
    "Folds of the inner cross-validation, which chooses settings within the training rows."
    draws: int = 500
    "Draws of the bootstrap over plots."
    seed: int = 0
    "Seed of folds, networks, trees and bootstrap."

    def __post_init__(self) -> None:
        """Check the values."""
        for name, least in (("plot_folds", 2), ("inner_folds", 2), ("draws", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a whole number of {least} or more")
        for name in ("model", "scheme"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} is {values}; expected one or more different names")
