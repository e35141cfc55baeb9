"""What a task found: scores by autoencoder, with everything needed to know what they mean. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Number = float | int | None
"""A score; None where it is not defined, such as a share of nothing."""


@dataclass(frozen=True)
class Table:
    """Rows of a further table, such as a probe's accuracy by data set: written as CSV, and into the report.

    A row that is about one autoencoder has its name in the first column, headed "SAE".
    """

    headers: tuple[tuple[str, str], ...]
    "For each column a label and its explanation."
    rows: tuple[tuple[Any, ...], ...]
    "Strings, numbers, or None."
    shown: bool = True
    "Whether the report shows it; a table too long to read is written as CSV only."

    def __post_init__(self) -> None:
        """Check the number of cells."""
        for row in self.rows:
            if len(row) != len(self.headers):
                raise ValueError(f"row {row!r} has {len(row)} cells; expected {len(self.headers)}, one a header")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one task found for all the autoencoders of one site."""

    scores: dict[str, dict[str, Number]]
    "By autoencoder, then by the score's name."
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    "95 % intervals of some scores, by autoencoder and the score's name; what they are over is said in `constants`."
    baselines: dict[str, Number] = field(default_factory=dict)
    "Numbers of the model itself that scores are read against, such as the accuracy of a probe on its residual."
    tables: dict[str, Table] = field(default_factory=dict)
    "Further tables by a short name; written as TASK-NAME.csv."
    constants: dict[str, Any] = field(default_factory=dict)
    "Every constant of the definitions, plain values."
    data: dict[str, Any] = field(default_factory=dict)
    "What was read, each with its hash."
    seeds: tuple[int, ...] = ()
    "The seeds that decided anything."
    notes: tuple[str, ...] = ()
    "Said below the scores wherever they are shown, such as 'adapted, not comparable with published scores'."
    missing: dict[str, str] = field(default_factory=dict)
    "Parts of the task that could not be measured, each with the reason in one line."
    extra: dict[str, Any] = field(default_factory=dict)
    "Plain values that figures or other formats need beyond the scores."


@dataclass(frozen=True)
class Measured:
    """One task on one group of autoencoders: what was found, or why nothing was."""

    task: str
    saes: tuple[str, ...]
    outcome: Outcome | None
    failure: str | None
    seconds: float
