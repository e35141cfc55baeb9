"""The rules of the gridworlds: one field per quirk of the published code, and two presets. Imports no NumPy."""

from dataclasses import dataclass, replace
from typing import Any, Literal

Preset = Literal["published", "corrected"]
N_ACTIONS = 5
"""0 row+1 (down), 1 row−1 (up), 2 column+1 (right), 3 column−1 (left), 4 stay."""
WINDOW = 5
"""Cells across the square an agent sees, itself in the middle."""


@dataclass(frozen=True, kw_only=True)
class RulesConfig:
    """Size, time limit and quirks; the defaults are the corrected rules.

    Reference: Bussmann, Heinerman, Lehman, "Towards Empathic Deep Q-Learning" (2019), by the authors' code of
    2019-06-19.
    """

    size: int = 7
    "Rows and columns of the torus."
    others: int = 1
    "Number of other agents."
    time_limit: int = 500
    "Steps after which an episode ends."
    weapons_wrap: bool = True
    "Coexistence: a weapon reaches across the border, as movement does."
    same_cell_kills: bool = False
    "Coexistence: on the other's cell the learner dies, unless it moved down or right."
    kill_step_shows_other: bool = False
    "Coexistence: the learner's view still shows the other in the step in which it was killed."
    one_step_more: bool = False
    "Coexistence: the episode ends after time_limit + 1 steps."
    dead_other_counts: bool = False
    "Learning: the value of an all-zero view counts as the value of an other that is dead."
    final_other_counts: bool = False
    "Learning: the other's value counts after the episode has terminated."
    other_obs_of_next_episode: bool = False
    "Learning: the other's view after a terminal step is the first one of the next episode."
    time_limit_terminates: bool = False
    "The time limit counts as a terminal state: no bootstrap from it."
    separate_planes: bool = True
    "Coins and agents on planes of their own; agents on one cell add up. Else one: coin 255, other drawn last."
    distance_wraps: bool = True
    "The closest other is the closest on the torus; else by raw coordinates."
    equality_bonus: bool = False
    "Sharing: equality is computed from totals that are 0.1 per coin above the returns."
    actions_declared: int = N_ACTIONS
    "Size of the declared action space; the published code declares 4 and uses 5."

    def __post_init__(self) -> None:
        """Check the values."""
        if self.size < WINDOW:
            raise ValueError(f"size is {self.size}; expected at least {WINDOW}, the width of a view")
        if self.others < 1:
            raise ValueError(f"others is {self.others}; expected 1 or more: empathy needs another agent")
        if self.others > self.size:
            raise ValueError(f"others is {self.others}; expected at most the grid's size, {self.size}")
        if self.time_limit < 1:
            raise ValueError(f"time_limit is {self.time_limit}; expected 1 or more steps")
        if self.actions_declared not in (4, N_ACTIONS):
            raise ValueError(f"actions_declared is {self.actions_declared}; expected 5, or the published 4")


_PUBLISHED = RulesConfig(
    weapons_wrap=False,
    same_cell_kills=True,
    kill_step_shows_other=True,
    one_step_more=True,
    dead_other_counts=True,
    final_other_counts=True,
    other_obs_of_next_episode=True,
    time_limit_terminates=True,
    separate_planes=False,
    distance_wraps=False,
    equality_bonus=True,
    actions_declared=4,
)


def make_rules(preset: str = "corrected", **changes: Any) -> RulesConfig:
    """Take a preset's rules, with some fields changed; None changes nothing.

    Raises:
        ValueError: no such preset, or a value that cannot be.

    Example:
        >>> make_rules("published", weapons_wrap=True).same_cell_kills
        True
    """
    if preset not in ("published", "corrected"):
        raise ValueError(f"rules is {preset!r}; expected published or corrected")
    base = _PUBLISHED if preset == "published" else RulesConfig()
    return replace(base, **{key: value for key, value in changes.items() if value is not None})
