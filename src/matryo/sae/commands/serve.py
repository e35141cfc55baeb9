"""`matryo sae serve`: an index → pages in the browser."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from matryo.sae.commands.index import indexed
from matryo.sae.sources import find_saes, is_run, no_activations
from matryo.spine.progress import say
from matryo.spine.run import FinishedRun, read_run


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How the dashboard is served."""

    host: str = "127.0.0.1"
    "Address to listen on; this machine only by default."
    port: int = 8765
    "Port to listen on; 0 for any that is free."
    model: bool = True
    "Load the language model in the background, for the prompt lab and steering."
    device: str = "cpu"
    "Where the model runs."
    lm_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    "Number format of the language model."
    check: bool = False
    "Open everything, say what would be served, and stop."

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port is {self.port}; expected 0 to 65535")


def serve(
    run: tuple[str, ...] = ("runs/latest",),
    *,
    options: Annotated[ServeOptions | None, Parameter(name="*")] = None,
) -> None:
    """Serve the dashboard of an index, on this machine, with no request to any other.

    Of a run that is no index, or of single SAEs, the newest index that has them all is served.

    Examples
    --------
        matryo sae serve runs/latest --check
        matryo sae serve --run runs/latest --port 0 --no-model --check

    Parameters
    ----------
    run
        An index, or what one was made of: runs, or RUN/saes/NAME, with @LEVEL behind it for its first latents.
    """
    from matryo.sae.dashboard.index.opened import open_index
    from matryo.sae.dashboard.server.listen import listen

    options = options or ServeOptions()
    found = find_index(run)
    index = open_index(found.path)
    if options.check:
        tokens = index.corpus.n_tokens
        say(f"{found.path} would be served: {', '.join(index.saes)} on {tokens:,} tokens", run=str(found.path))
        return
    listen(index, found.path.parent, options, say)


def find_index(sources: Sequence[str]) -> FinishedRun:
    """The index at a path, or the newest beside the runs of some SAEs that has them all.

    Raises:
        ValueError: there is none; the command that makes one is named.
    """
    runs = [read_run(path) for source in sources if is_run(path := Path(source))]
    if len(sources) == 1 and runs and "index" in runs[0].outputs:
        return runs[0]
    folders, told = {run.path.parent for run in runs}, []
    for place in (place for source in sources for place in find_saes(source)):
        if place.run is None:
            raise no_activations(place)
        folders.add(place.run.path.parent)
        # Of a whole run that was indexed, the run alone is told.
        told.append({place.key} if place.level else {place.key, str(place.run.path)})
    for folder in sorted({file.parent for near in folders for file in near.glob("*/run.json")}, reverse=True):
        with contextlib.suppress(ValueError):  # a run that was altered is in nobody's way
            found = read_run(folder)
            if "index" in found.outputs:
                has = set(indexed(found.config.get("run", ()), [Path(parent).resolve() for parent in found.parents]))
                if all(has & ways for ways in told):
                    return found
    typed = " ".join(map(str, sources))
    raise ValueError(f"there is no index of {typed}: make one with matryo sae index {typed}")
