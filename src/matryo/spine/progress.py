"""Progress of long work: live on a terminal, a plain line every ten seconds elsewhere, nothing, or JSON."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from matryo.spine.errors import unknown

Mode = Literal["auto", "quiet", "json"]
EVERY_S = 10.0

_mode: Mode = "auto"
_console: Any = None  # of the live display, if one is up


def set_mode(mode: Mode) -> None:
    """Choose how progress is shown; "auto" is live on a terminal and plain lines elsewhere."""
    global _mode
    if mode not in ("auto", "quiet", "json"):
        raise unknown("progress mode", mode, ("auto", "quiet", "json"))
    _mode = mode


def say(text: str, **fields: Any) -> None:
    """Print a result to standard output, in every mode; in "json" as an object that has the fields too."""
    if _mode == "json":
        print(json.dumps({"event": "say", "text": text, **fields}, default=str), flush=True)  # noqa: T201
    elif _console is not None and sys.stdout.isatty():
        _console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        print(text, flush=True)  # noqa: T201


class Progress:
    """One piece of work in progress, from `progress`."""

    def __init__(self, title: str, total: int | None, unit: str, live: Any = None):
        self.title, self.total, self.unit, self.done = title, total, unit, 0
        self._numbers: dict[str, Any] = {}
        self._start, self._shown, self._live = time.monotonic(), float("-inf"), live
        self._task = live.add_task(title, total=total, tail="") if live else None
        self.show()

    def advance(self, n: int = 1, **numbers: Any) -> None:
        """Count `n` more units done; the latest numbers are shown beside."""
        self.done += n
        self._numbers.update(numbers)
        if self._live:
            self._live.update(self._task, completed=self.done, tail=self._tail())
        elif time.monotonic() - self._shown >= EVERY_S:
            self.show()

    def note(self, text: str) -> None:
        """Print a remark above the progress line."""
        if self._live:
            self._live.console.print(f"{self.title}: {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            self._line({"event": "note", "title": self.title, "text": text}, f"{self.title}: {text}")

    def show(self, last: bool = False) -> None:
        """Write the plain line now; on a live display there is none."""
        self._shown = time.monotonic()
        if not self._live:
            seconds = self._shown - self._start
            event = {"event": "done" if last else "progress", "title": self.title, "done": self.done}
            event |= {"total": self.total, "unit": self.unit, "seconds": round(seconds, 3), **self._numbers}
            self._line(event, f"{self.title}: {self._tail()}" + (f" in {seconds:.1f} s" if last else ""))

    def _tail(self) -> str:
        seconds = time.monotonic() - self._start
        of = f"/{self.total:,}" if self.total is not None else ""
        parts = [f"{self.done:,}{of} {self.unit}"]
        if self.done and seconds > 0:
            parts.append(f"{self.done / seconds:,.3g} {self.unit}/s")
        return "  ".join(parts + [f"{key} {_short(value)}" for key, value in self._numbers.items()])

    def _line(self, event: dict[str, Any], text: str) -> None:
        if _mode != "quiet":
            line = json.dumps(event, default=_short) if _mode == "json" else text
            print(line, file=sys.stderr, flush=True)  # noqa: T201


def _short(value: Any) -> str:
    return f"{float(value):.4g}" if isinstance(value, float) or hasattr(value, "item") else str(value)


@contextmanager
def progress(title: str, total: int | None = None, unit: str = "it") -> Iterator[Progress]:
    """Show the progress of the work inside the `with` block on standard error.

    Args:
        title: What is being done.
        total: Units of the whole work, if known.
        unit: Name of a unit.
    """
    global _console
    if _mode != "auto" or not sys.stderr.isatty() or _console is not None:
        work = Progress(title, total, unit)
        try:
            yield work
        finally:
            work.show(last=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Live

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[tail]}"))
    console = Console(stderr=True)
    with Live(*columns, TimeRemainingColumn(), console=console, redirect_stdout=sys.stdout.isatty()) as live:
        _console = console
        try:
            yield Progress(title, total, unit, live)
        finally:
            _console = None
