"""Worlds by name: the two of the paper, or anyone's own as `module:Class`."""

from importlib import import_module
from typing import Any

from matryo.empathy.envs.rules import RulesConfig
from matryo.empathy.envs.world import World
from matryo.spine.errors import unknown

WORLDS = {
    "coexistence": "matryo.empathy.envs.coexistence:Coexistence",
    "sharing": "matryo.empathy.envs.sharing:Sharing",
}


def make_world(name: str, rules: RulesConfig | None = None) -> World:
    """Make a world by its name, or by `module:Class` where the class is a `World`.

    Raises:
        ValueError: there is no such world.

    Example:
        >>> make_world("sharing").planes
        2
    """
    place = WORLDS.get(name, name)
    module, colon, attribute = place.partition(":")
    if not colon:
        raise unknown("env", name, WORLDS, fix="or module:Class, such as mygarden:Garden")
    try:
        found: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"env is {name!r} and cannot be imported ({error}); expected module:Class on the path"
        ) from None
    if not (isinstance(found, type) and issubclass(found, World)):
        raise ValueError(f"env is {name!r}; expected a class that is a matryo.empathy.envs.World")
    return found(rules)
