from .statements import CLAIMS, Claim, family
from .units import FULL, SHORT, Form, Results, Unit, plan, read_results, run_units
from .verdicts import Line, as_markdown, judge, lines

__all__ = [
    "CLAIMS",
    "FULL",
    "SHORT",
    "Claim",
    "Form",
    "Line",
    "Results",
    "Unit",
    "as_markdown",
    "family",
    "judge",
    "lines",
    "plan",
    "read_results",
    "run_units",
]
