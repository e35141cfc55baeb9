"""Commands that torchrun started several times: all work, one speaks and writes the run, and one that is lost is named."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matryo.sae.commands.options import resume_line
from matryo.spine.progress import say, set_mode
from matryo.spine.run import RunFolder

if TYPE_CHECKING:
    from matryo.sae.train.parallel import Parallel, Processes

Mode = Literal["data", "latents", "grid"]


@dataclass
class Together:
    """The processes a command runs in (None: this one alone), its run folder once there is one, its exit code."""

    processes: "Processes | None" = None
    run: Path | None = None
    code: int = 0

    def parallel(self, mode: Mode | None = None, count: int = 0) -> "Parallel":
        """How `count` autoencoders are shared out: as asked for, or rows of one and a grid of several.

        Without any it says only who is first, and who there is.
        """
        from matryo.sae.train.parallel import Parallel

        if not count:
            return Parallel("data", self.processes)
        chosen = mode or ("data" if count == 1 else "grid")
        if self.processes is not None:
            what = {"data": "rows of every batch", "latents": "latents", "grid": "autoencoders"}[chosen]
            say(f"parallel: {chosen}, {what} over {self.processes.size} processes", parallel=chosen)
        return Parallel(chosen, self.processes)


@contextmanager
def together(command: str, mode: Mode | None, device: str) -> Iterator[Together]:
    """Join the processes that torchrun started, if it did.

    Of an error that several processes meet alike the first one's is shown. The others of a lost process say so, once.

    Raises:
        ValueError: a mode is asked for without torchrun.
        ConnectionError: another process was lost; how to go on is said.
    """
    shared = Together()
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        if mode is not None:
            raise ValueError(
                f"--parallel {mode} is for several processes, and this is one; start them with: "
                f"torchrun --nproc-per-node 2 -m matryo sae {command} ..."
            )
        yield shared
        return
    from matryo.sae.train.parallel import LostProcessError, OtherProcessError, open_processes

    with open_processes(device) as processes, silence(processes.rank > 0):
        shared.processes = processes
        try:
            try:
                yield shared
            except KeyboardInterrupt:
                # Of the user, or torchrun's SIGTERM to those left when a process is lost.
                if missing := processes.roll_call():
                    raise missing from None
                if processes.rank == 0:
                    raise
                shared.code = 130
        except OtherProcessError:
            shared.code = 2
        except LostProcessError as lost:
            shared.code = 2
            if lost.speaker:
                how = f"; {resume_line(command, shared.run)}, on any number of processes" if shared.run else ""
                raise ConnectionError(f"{lost}{how}") from None
        except (ValueError, OSError) as error:
            shared.code = 2
            if not processes.is_repeated(error):
                raise


@contextmanager
def silence(wanted: bool) -> Iterator[None]:
    """Results and progress to nowhere."""
    if not wanted:
        yield
        return
    set_mode("quiet")
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def open_run(parallel: "Parallel", make: Callable[[], RunFolder]) -> "RunFolder | FollowedRun":
    """The run folder that the first process makes; the others follow it."""
    made: list[RunFolder] = []

    def path() -> str:
        made.append(make())
        return str(made[0].path)

    where = parallel.from_first(path)
    return made[0] if made else FollowedRun(Path(where))


@dataclass(frozen=True)
class FollowedRun:
    """A run folder that another process logs to and seals."""

    path: Path

    def log(self, **numbers: Any) -> None:
        """Nothing: the first process logs."""

    def finish(self, outputs: dict[str, Any]) -> None:
        """Nothing: the first process seals the run."""

    def __enter__(self) -> "FollowedRun":
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is held open."""
