"""`matryo phenology recipes`: what named configs there are."""

from matryo.phenology.recipes import RECIPES, recipe
from matryo.spine.progress import say


def recipes(name: str | None = None) -> None:
    """List the named configs, or show the values of one.

    Examples
    --------
        matryo phenology recipes
        matryo phenology recipes satellite

    Parameters
    ----------
    name
        The recipe to show.
    """
    if name is None:
        width = max(map(len, RECIPES))
        for key, (line, _) in RECIPES.items():
            say(f"{key:{width}}  {line}", recipe=key)
        return
    values = recipe(name)
    say(RECIPES[name][0], recipe=name, values=values)
    for key, value in values.items():
        say(f"  --{key.replace('_', '-')} {value}")
