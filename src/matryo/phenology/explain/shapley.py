"""Exact Shapley values with the shap library, of single drivers or of groups of them.

φ_i(x) = Σ_{S ⊆ N∖i} |S|!(n − |S| − 1)!/n! · (v(S ∪ i) − v(S)), v(S) = mean over background rows b of f(x_S, b_{N∖S}):
the interventional value function (Lundberg and Lee 2017; Janzing et al. 2020). All 2ⁿ coalitions are evaluated. A
group is one player whose drivers come and go together, so its value is that of a game among groups, not a sum of its
drivers'.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PLAYERS = 12
"""Players at most: 4,096 coalitions."""

ADDITIVE_TO = 1e-6
"""Share of the predictions' range within which values and base must add up to the prediction."""


@dataclass(frozen=True)
class Shapley:
    """Shapley values (rows, players) of rows, the base value v(∅), and the largest departure from additivity."""

    values: np.ndarray
    base: float
    gap: float


def explain_rows(
    predict: Callable[[np.ndarray], np.ndarray], X: np.ndarray, background: np.ndarray, groups: Sequence[Sequence[int]]
) -> Shapley:
    """Explain predictions of rows X (n, k) against background rows (b, k); `groups` lists each player's columns.

    Raises:
        ValueError: More than 12 players, or columns that are not each in one group.
        ArithmeticError: The values do not add up to the predictions.
    """
    if len(groups) > PLAYERS:
        raise ValueError(
            f"{len(groups)} players have 2^{len(groups)} coalitions; expected at most {PLAYERS}, group drivers"
        )
    if sorted(column for group in groups for column in group) != list(range(X.shape[1])):
        raise ValueError(f"groups are {list(map(list, groups))}; expected each of the {X.shape[1]} columns once")
    shap = _import_shap()
    exact = shap.explainers.Exact(predict, _masker(shap, X, background, groups))
    players = np.repeat(np.arange(len(X))[:, None], len(groups), axis=1)  # a player's cell says which row it is in
    found = exact(players, silent=True)
    values, base = np.asarray(found.values, dtype=float), float(np.mean(found.base_values))
    predicted = predict(X)
    gap = float(np.abs(values.sum(axis=1) + base - predicted).max())
    if not gap <= ADDITIVE_TO * max(float(np.ptp(predicted)), float(np.abs(predicted).max()), 1e-12):
        raise ArithmeticError(f"Shapley values miss the predictions by {gap:g}; the model may not be deterministic")
    return Shapley(values, base, gap)


def _import_shap() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its plots, which are not used, call what matplotlib deprecates
        import shap

    return shap


def _masker(shap: Any, X: np.ndarray, background: np.ndarray, groups: Sequence[Sequence[int]]) -> Any:
    player_of = np.empty(X.shape[1], dtype=int)
    for player, columns in enumerate(groups):
        player_of[list(columns)] = player

    class GroupMasker(shap.maskers.Masker):
        """Puts background values in the place of the players that are out."""

        shape = (len(background), len(groups))
        immutable_outputs = True

        def __call__(self, mask: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray]:
            return (np.where(mask[player_of], X[int(cells[0])], background),)

    return GroupMasker()
