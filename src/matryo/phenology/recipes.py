"""Named configs: field values for the commands, by name. A flag beats a `--config` file, which beats a recipe.

Values a command has no field for are passed over, as one recipe serves fitting and drivers.
"""

from typing import Any

from matryo.spine.errors import unknown

RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "plots": (
        "Plots visited by hand, 10 to 25 times a year: Beck curve, Huber's loss; the default.",
        {"curve": "beck", "robust": "huber", "definition": "der"},
    ),
    "satellite": (
        "Pixels of 8- or 16-day composites: Elmore curve, bisquare loss, single spikes left out, 50 % dates.",
        {"curve": "elmore", "robust": "bisquare", "spike": 0.25, "definition": "trs50"},
    ),
    "least-squares": (
        "Beck curve by plain weighted least squares, as the bars are measured.",
        {"curve": "beck", "robust": "none", "definition": "der"},
    ),
}


def recipe(name: str) -> dict[str, Any]:
    """The field values of a recipe.

    Raises:
        ValueError: there is no such recipe; the nearest is offered.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES, fix="`matryo phenology recipes` lists them")
    return dict(RECIPES[name][1])
