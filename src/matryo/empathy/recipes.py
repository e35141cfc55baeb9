"""Named configs: field values for the commands, by name. A flag beats a `--config` file, which beats a recipe."""

from typing import Any

from matryo.spine.errors import unknown

GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
_PUBLISHED_SCHEDULE = {
    "steps": 1_200_000,
    "epsilon_steps": 1_000_000,
    "target_every": 10_000,
    "buffer": 500_000,
    "prefill": 20_000,
}

RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "coexistence": (
        "Coexistence by the corrected rules, 200,000 steps; with `sweep` five β and ten seeds.",
        {"env": "coexistence"},
    ),
    "sharing": (
        "Sharing by the corrected rules, 200,000 steps; with `sweep` five β and ten seeds.",
        {"env": "sharing"},
    ),
    "coexistence-published": (
        "Coexistence by the published rules with the short schedule.",
        {"env": "coexistence", "rules": "published"},
    ),
    "sharing-published": (
        "Sharing by the published rules with the short schedule.",
        {"env": "sharing", "rules": "published"},
    ),
    "paper-coexistence": (
        "Coexistence by the published rules and schedule: ε over 1,000,000 steps, target copied every 10,000.",
        {"env": "coexistence", "rules": "published", **_PUBLISHED_SCHEDULE},
    ),
    "paper-sharing": (
        "Sharing by the published rules and schedule.",
        {"env": "sharing", "rules": "published", **_PUBLISHED_SCHEDULE},
    ),
    "controls": (
        "Coexistence with every agent: the controls and side-effect baselines beside Empathic DQN (dqn is its β = 1).",
        {
            "agent": ("empathic", "kill_penalty", "own_value", "true_reward", "aup"),
            "selfishness": (0.5, 1.0),
            "penalty": (1.0, 10.0, 100.0),
            "aup_lambda": (0.01, 0.1, 1.0, 10.0),
        },
    ),
    "demo": (
        "What `demo` trains in each world: three β, three seeds, 20,000 steps.",
        {
            "selfishness": (0.0, 0.5, 1.0),
            "seeds": 3,
            "steps": 20_000,
            "epsilon_steps": 12_000,
            "target_every": 500,
            "prefill": 2_000,
            "evaluate_every": 1_000,
            "log_every": 500,
            "episodes": 100,
        },
    ),
}


def recipe(name: str) -> dict[str, Any]:
    """The field values of a recipe.

    Raises:
        ValueError: there is no such recipe; the nearest is offered.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES, fix="`matryo empathy recipes` lists them")
    return dict(RECIPES[name][1])
