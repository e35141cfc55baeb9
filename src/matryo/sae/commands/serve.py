"""`matryo sae serve`: an index → pages in the browser."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from matryo.sae.evaluate.runs import training_runs
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
    run: tuple[Path, ...] = (Path("runs/latest"),),
    *,
    options: Annotated[ServeOptions | None, Parameter(name="*")] = None,
) -> None:
    """Serve the dashboard of an index, on this machine, with no request to any other.

    Of a run that is no index, the newest index made of it is served.

    Examples
    --------
        matryo sae serve runs/latest --check
        matryo sae serve --run runs/latest --port 0 --no-model --check

    Parameters
    ----------
    run
        An index, or runs that one was made from.
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


def find_index(paths: tuple[Path, ...]) -> FinishedRun:
    """The index at a path, or the newest beside them that was made from all of these runs.

    Raises:
        ValueError: there is none; the command that makes one is named.
    """
    runs = [read_run(path) for path in paths]
    if len(runs) == 1 and "index" in runs[0].outputs:
        return runs[0]
    wanted = {str(made.path) for run in runs for made in training_runs(run.path)}
    beside = sorted({file.parent for run in runs for file in run.path.parent.glob("*/run.json")}, reverse=True)
    for folder in beside:
        with contextlib.suppress(ValueError):  # a run that was altered is in nobody's way
            found = read_run(folder)
            if "index" in found.outputs and wanted <= {str(Path(parent).resolve()) for parent in found.parents}:
                return found
    typed = " ".join(map(str, paths))
    raise ValueError(f"there is no index of {typed}: make one with matryo sae index {typed}")
