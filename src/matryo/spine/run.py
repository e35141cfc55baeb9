"""Run folders: what a command was told, where it ran, what it logged and made; `run.json`, last, seals it."""

import contextlib
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Protocol

from matryo.spine.config import diff, digest, from_dict, read_toml, to_dict, to_toml, write_text
from matryo.spine.errors import NoSpaceError, unknown


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

    def __init__(self, path: Path, config: Any, begun: dict[str, Any], sinks: Sequence[str]):
        self.path, self._config, self._begun, self._clock = path, config, begun, time.monotonic()
        self._session = 1 + max((row["session"] for row in read_metrics(path)), default=0)
        self._lock = _lock(path / "lock")
        self._metrics = os.open(path / "metrics.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if (size := os.fstat(self._metrics).st_size) and os.pread(self._metrics, 1, size - 1) != b"\n":
            os.write(self._metrics, b"\n")  # the process before died in the middle of a line
        self._sinks = [_open_sink(name, path, config) for name in sinks]

    @classmethod
    def create(
        cls,
        root: Path,
        name: str,
        command: str,
        config: Any,
        parents: Sequence[Path] = (),
        sinks: Sequence[str] = (),
    ) -> "RunFolder":
        """Make `root/<time>-<name>-<config digest>`, never an existing folder, and point `root/latest` to it.

        Args:
            root: Folder of the runs.
            name: Short name, usually the recipe's.
            command: The command as typed, such as "sae train".
            config: A dataclass, or a dict of plain values.
            parents: Finished runs that this one reads.
            sinks: Further places for the logged numbers: "tensorboard", "wandb", "trackio".

        Raises:
            ValueError: A parent is no finished run, or a sink is unknown or not installed.
            OSError: The folder cannot be written.
        """
        sources = [read_run(parent).path for parent in parents]
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}-{digest(config)}"
        root.mkdir(parents=True, exist_ok=True)
        path, count = root.resolve() / stem, 1
        while True:
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                break
            path, count = path.with_name(f"{stem}-{count + 1}"), count + 1
        begun = {
            "command": command,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "parents": [{"path": os.path.relpath(s, path), "run_sha256": _sha256(s / "run.json")} for s in sources],
        }
        to_toml(config, path / "config.toml")
        _write_json(path / "environment.json", begun | environment())
        run = cls(path, config, begun, sinks)
        link = path.with_name(f".latest.{os.getpid()}")
        link.symlink_to(path.name)
        link.replace(path.with_name("latest"))
        return run

    @classmethod
    def reopen(cls, path: Path, config: Any, sinks: Sequence[str] = ()) -> "RunFolder":
        """Resume an unfinished run under the same config; what it logged stays.

        Raises:
            ValueError: The folder is no run, is finished, or was started with another config (the fields that
                differ are listed).
            BlockingIOError: Another process is writing it.
        """
        path = path.resolve()
        if not (path / "environment.json").is_file():
            raise ValueError(f"{path} is no run folder: expected environment.json in it, name a folder of runs/")
        if (path / "run.json").exists():
            raise ValueError(f"{path} is finished: there is nothing to resume, start a new run")
        stored, given = read_toml(path / "config.toml"), config
        if is_dataclass(config):
            stored = to_dict(from_dict(type(config), stored, where=str(path / "config.toml")))
        else:
            given = {key: value for key, value in config.items() if value is not None}
        if changes := diff(stored, to_dict(given)):
            raise ValueError(f"{path} was started with another config: {'; '.join(changes)}; resume it unchanged")
        begun = json.loads((path / "environment.json").read_text())
        return cls(path, config, {key: begun[key] for key in ("command", "started", "parents")}, sinks)

    def log(self, **numbers: Any) -> None:
        """Append one line to `metrics.jsonl`, with the time, and hand it to the sinks.

        Args:
            **numbers: Numbers (or zero-dimensional tensors) and short strings; by custom `step` among them.

        Raises:
            NoSpaceError: The disk is full; the lines before this one stay whole.
        """
        row = {k: v.item() if hasattr(v, "item") else v for k, v in numbers.items()}
        row |= {"time": round(time.time(), 3), "session": self._session}
        row = {k: str(v) if isinstance(v, float) and v - v != 0 else v for k, v in row.items()}  # JSON has no nan
        line, size = (json.dumps(row) + "\n").encode(), os.fstat(self._metrics).st_size
        try:
            if os.write(self._metrics, line) < len(line):
                raise OSError("short write")
        except OSError as error:
            os.ftruncate(self._metrics, size)
            raise NoSpaceError(
                f"cannot log to {self.path} ({error.strerror or 'disk full'}): free some space, then resume"
            ) from error
        for sink in self._sinks:
            sink.log(row)

    def finish(self, outputs: dict[str, Any]) -> None:
        """Seal the run by writing `run.json`, and close it.

        Args:
            outputs: What the run made: file names relative to the folder, and numbers worth keeping.
        """
        sealed = {
            **self._begun,
            "name": self.path.name,
            "elapsed_s": round(time.monotonic() - self._clock, 3),
        }
        sealed |= {"sessions": self._session, "config_digest": digest(self._config)}
        sealed |= {"config": to_dict(self._config), "outputs": to_dict(outputs)}
        _write_json(self.path / "run.json", sealed)
        self.close()

    def close(self) -> None:
        """Release the folder; without `finish` before, it stays unfinished and can be reopened."""
        if self._metrics >= 0:
            os.close(self._metrics)
            self._lock.close()
            self._metrics = -1
            for sink in self._sinks:
                sink.close()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_run(path: Path) -> FinishedRun:
    """Read a finished run; `runs/latest` is followed to the run itself.

    Raises:
        ValueError: The folder does not exist, is no run, or is not finished.
    """
    real = path.resolve()
    if not (real / "run.json").is_file():
        if (real / "environment.json").is_file():
            raise ValueError(f"run {real} is not finished: resume it, or name a finished run")
        raise ValueError(f"{path} is no run folder: expected run.json in it, name a folder of runs/")
    try:
        told = json.loads((real / "run.json").read_text())
        parents = tuple(os.path.normpath(real / parent["path"]) for parent in told["parents"])
        return FinishedRun(real, told["command"], told["config"], told["outputs"], parents)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{real}/run.json was altered ({error}): restore it or make the run again") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's `metrics.jsonl`.

    A torn line is passed over. Where a resumed run went over steps again, the later session's lines stand.
    """
    rows: list[dict[str, Any]] = []
    session = 1
    file = path / "metrics.jsonl"
    for line in file.read_text().splitlines() if file.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if "step" in row and session < row["session"]:
                session = row["session"]
                rows = [old for old in rows if old.get("step", -1) < row["step"]]
            rows.append(row)
    return rows


def environment() -> dict[str, Any]:
    """Describe where we run: Python, machine, threads, arguments, package versions, our own commit."""
    source, commit = Path(__file__).resolve().parents[3], None
    if (source / ".git").exists():
        ask = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        with contextlib.suppress(OSError):
            commit = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip() or None
    torch = sys.modules.get("torch")
    return {
        "argv": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads() if torch else None,
        "commit": commit,
        "packages": {d.name: d.version for d in sorted(distributions(), key=lambda d: d.name.lower())},
    }


class Sink(Protocol):
    """A further place for the logged numbers."""

    def log(self, row: dict[str, Any]) -> None:
        """Take one line of `metrics.jsonl`."""

    def close(self) -> None:
        """Flush and let go."""


class _TensorBoard:
    def __init__(self, path: Path, config: Any):
        from torch.utils.tensorboard import SummaryWriter

        self._writer, self.close = (writer := SummaryWriter(path / "tensorboard")), writer.close

    def log(self, row: dict[str, Any]) -> None:
        for key, value in row.items():
            if key not in ("step", "time", "session") and isinstance(value, int | float):
                self._writer.add_scalar(key, value, row.get("step"), row["time"])


class _Tracker:
    """Weights & Biases, and trackio, which has the same functions."""

    def __init__(self, module: Any, path: Path, config: Any):
        self._run = module.init(project="matryo", name=path.name, config=to_dict(config))
        self.close = self._run.finish

    def log(self, row: dict[str, Any]) -> None:
        self._run.log({k: v for k, v in row.items() if k not in ("time", "session")}, step=row.get("step"))


def _open_sink(name: str, path: Path, config: Any) -> Sink:
    if name not in ("tensorboard", "wandb", "trackio"):
        raise unknown("log sink", name, ("tensorboard", "wandb", "trackio"))
    try:
        if name == "tensorboard":
            return _TensorBoard(path, config)
        return _Tracker(__import__(name), path, config)
    except ImportError as error:
        raise ValueError(f"log sink {name!r} is not installed ({error.name} is missing): pip install {name}") from error


def _lock(path: Path) -> Any:
    import fcntl

    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BlockingIOError(f"run folder in use: another process is writing {path.parent}, wait for it") from None
    return file


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
