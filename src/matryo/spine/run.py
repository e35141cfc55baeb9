"""Run folders: what a command was told, where it ran, what it logged and made; `run.json`, last, seals it."""

import contextlib
import fcntl
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from matryo.spine.config import diff, digest, from_dict, read_toml, to_dict, to_toml, write_text
from matryo.spine.errors import NoSpaceError, unknown
from matryo.spine.fetch import file_sha256


@dataclass(frozen=True)
class FinishedRun:
    """What `run.json` says of a finished run; `outputs` are as the command gave them to `finish`."""

    path: Path
    command: str
    config: dict[str, Any]
    outputs: dict[str, Any]
    parents: tuple[str, ...]


class RunFolder:
    """A folder that one command is writing: a context manager; call `finish` when all data is there."""

    def __init__(self, path: Path, config: Any, begun: dict[str, Any], sinks: Sequence[Any]):
        self.path, self._config, self._begun, self._clock = path, config, begun, time.monotonic()
        self._session = 1 + max((row["session"] for row in read_metrics(path)), default=0)
        self._sinks = [_open_sink(module, path, config) for module in sinks]
        self._lock = _lock(path / "lock")
        self._metrics = os.open(path / "metrics.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if (size := os.fstat(self._metrics).st_size) and os.pread(self._metrics, 1, size - 1) != b"\n":
            os.write(self._metrics, b"\n")  # the process before died in the middle of a line

    @classmethod
    def create(
        cls, root: Path, name: str, command: str, config: Any, parents: Sequence[Path] = (), sinks: Sequence[str] = ()
    ) -> "RunFolder":
        """Make `root/<time>-<name>-<config digest>`, never an existing folder, and point `root/latest` to it.

        Args:
            root: Folder of the runs.
            name: Short name, usually the recipe's.
            command: The command as typed, such as "sae train".
            config: A dataclass, or a dict of plain values.
            parents: Runs that this one reads; a ValueError if one is not finished.
            sinks: Further places for the logged numbers: "tensorboard", "wandb", "trackio".
        """
        sources, modules = [read_run(parent).path for parent in parents], [_sink_module(sink) for sink in sinks]
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}-{digest(config)}"
        root.mkdir(parents=True, exist_ok=True)
        path, count = root.resolve() / stem, 1
        while True:
            try:
                path.mkdir()
                break
            except FileExistsError:
                path, count = path.with_name(f"{stem}-{count + 1}"), count + 1
        told = [{"path": os.path.relpath(p, path), "run_sha256": file_sha256(p / "run.json")} for p in sources]
        begun = {"command": command, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "parents": told}
        to_toml(config, path / "config.toml")
        _write_json(path / "environment.json", begun | environment())
        run = cls(path, config, begun, modules)
        link = path.with_name(f".latest.{os.getpid()}")
        link.symlink_to(path.name)
        link.replace(path.with_name("latest"))
        return run

    @classmethod
    def reopen(cls, path: Path, config: Any, sinks: Sequence[str] = ()) -> "RunFolder":
        """Resume an unfinished run; what it logged stays.

        A ValueError says that it is no run, is finished, or in which fields its config differs; a BlockingIOError, that
        another process is writing it.
        """
        path = path.resolve()
        if not (path / "environment.json").is_file():
            raise ValueError(f"{path} is no run folder: expected environment.json in it, name a folder of runs/")
        if (path / "run.json").exists():
            raise ValueError(f"{path} is finished: there is nothing to resume, start a new run")
        stored = read_toml(path / "config.toml")
        if is_dataclass(config):
            stored = to_dict(from_dict(type(config), stored, where=str(path / "config.toml")))
        if changes := diff(stored, to_dict(config)):
            raise ValueError(f"{path} was started with another config: {'; '.join(changes)}; resume it unchanged")
        begun = json.loads((path / "environment.json").read_text(encoding="utf-8"))
        begun = {key: begun[key] for key in ("command", "started", "parents")}
        return cls(path, config, begun, [_sink_module(sink) for sink in sinks])

    def log(self, **numbers: Any) -> None:
        """Append numbers and short strings (`step` among them, by custom) to `metrics.jsonl`, and tell the sinks.

        On a full disk a NoSpaceError is raised, and the lines before this one stay whole.
        """
        row = {k: v.item() if hasattr(v, "item") else v for k, v in numbers.items()}
        row |= {"time": round(time.time(), 3), "session": self._session}
        row = {k: str(v) if isinstance(v, float) and v - v != 0 else v for k, v in row.items()}  # JSON has no nan
        line, size = (json.dumps(row) + "\n").encode(), os.fstat(self._metrics).st_size
        try:
            if os.write(self._metrics, line) < len(line):
                raise OSError("disk full")
        except OSError as error:
            os.ftruncate(self._metrics, size)
            raise NoSpaceError(
                f"cannot log to {self.path}: {error.strerror or error}; free some, then resume"
            ) from error
        for take, _ in self._sinks:
            take(row)

    def finish(self, outputs: dict[str, Any]) -> None:
        """Seal the run with what it made (file names relative to the folder, numbers worth keeping), and close it."""
        sealed = {**self._begun, "name": self.path.name, "elapsed_s": round(time.monotonic() - self._clock, 3)}
        sealed |= {"sessions": self._session, "config": to_dict(self._config), "outputs": to_dict(outputs)}
        _write_json(self.path / "run.json", sealed)
        self.close()

    def close(self) -> None:
        """Release the folder; without `finish` before, it stays unfinished and can be reopened."""
        if not self._lock.closed:
            os.close(self._metrics)
            self._lock.close()
            for _, close in self._sinks:
                close()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_run(path: Path) -> FinishedRun:
    """Read a finished run; `runs/latest` is followed to the run itself. A ValueError says what else it is."""
    real = path.resolve()
    if not (real / "run.json").is_file():
        if (real / "environment.json").is_file():
            raise ValueError(f"run {real} is not finished: resume it, run it again, or name a finished run")
        raise ValueError(f"{path} is no run folder: expected run.json in it, name a folder of runs/")
    try:
        told = json.loads((real / "run.json").read_text(encoding="utf-8"))
        parents = tuple(os.path.normpath(real / parent["path"]) for parent in told["parents"])
        return FinishedRun(real, told["command"], told["config"], told["outputs"], parents)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{real}/run.json was altered ({error}): restore it or make the run again") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines a run logged; where a resumed run went over steps again, the later session's lines stand."""
    rows: list[dict[str, Any]] = []
    session, file = 1, path / "metrics.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):  # a line torn by a kill
            row = json.loads(line)
            if "step" in row and session < row["session"]:
                session, rows = row["session"], [old for old in rows if old.get("step", -1) < row["step"]]
            rows.append(row)
    return rows


def environment() -> dict[str, Any]:
    """Describe where we run: Python, machine, threads, arguments, package versions, our own commit."""
    source, commit, torch = Path(__file__).resolve().parents[3], None, sys.modules.get("torch")
    if (source / ".git").exists():
        ask = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        with contextlib.suppress(OSError):
            commit = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip() or None
    return {
        "argv": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads() if torch else None,
        "commit": commit,
        "packages": {d.name: d.version for d in sorted(distributions(), key=lambda d: d.name.lower())},
    }


def _sink_module(name: str) -> Any:
    module = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}.get(name)
    if module is None:
        raise unknown("log sink", name, ("tensorboard", "wandb", "trackio"))
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(f"log sink {name!r} is not installed ({error}): pip install {name}") from error


def _open_sink(module: Any, path: Path, config: Any) -> tuple[Callable[[dict[str, Any]], Any], Callable[[], Any]]:
    """Open a further place for the logged numbers: a function that takes a row, and one that closes."""
    if not hasattr(module, "SummaryWriter"):
        try:
            tracker = module.init(project="matryo", name=path.name, config=to_dict(config))
        except Exception as error:  # such as no account: their errors share no base class
            raise ValueError(f"log sink {module.__name__!r} cannot be used ({error}): set it up first") from error
        return lambda row: tracker.log(row, step=row.get("step")), tracker.finish
    board = module.SummaryWriter(str(path / "tensorboard"))

    def take(row: dict[str, Any]) -> None:
        for key in row.keys() - {"step", "time", "session"}:
            if isinstance(row[key], int | float):
                board.add_scalar(key, row[key], row.get("step"), row["time"])

    return take, board.close


def _lock(path: Path) -> Any:
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BlockingIOError(f"run folder in use: another process is writing {path.parent}, wait for it") from None
    return file


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
