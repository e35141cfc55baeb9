from .config import AbsorptionConfig
from .measure import Absorption, ClassAbsorption, Concepts, fit_concepts, measure_absorption
from .prompts import WordActivations, read_activations
from .words import Words, read_words

__all__ = [
    "Absorption",
    "AbsorptionConfig",
    "ClassAbsorption",
    "Concepts",
    "WordActivations",
    "Words",
    "fit_concepts",
    "measure_absorption",
    "read_activations",
    "read_words",
]
