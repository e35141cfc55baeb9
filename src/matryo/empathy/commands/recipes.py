"""`matryo empathy recipes`: what named configs there are."""

from matryo.empathy.recipes import RECIPES, recipe
from matryo.spine.progress import say


def recipes(name: str | None = None) -> None:
    """List the named configs, or show the values of one.

    Examples
    --------
        matryo empathy recipes
        matryo empathy recipes paper-coexistence

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
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        say(f"  --{key.replace('_', '-')} {shown}")
