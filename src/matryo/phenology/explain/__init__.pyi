from .ale import Ale, accumulate_effects
from .attribute import Attribution, attribute, choose_model
from .shapley import Shapley, explain_rows
from .slopes import Slope, definition_slopes, soil_slope, weather_slopes

__all__ = [
    "Ale",
    "Attribution",
    "Shapley",
    "Slope",
    "accumulate_effects",
    "attribute",
    "choose_model",
    "definition_slopes",
    "explain_rows",
    "soil_slope",
    "weather_slopes",
]
