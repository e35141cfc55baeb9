"""Progress of long work: live on a terminal, a plain line every ten seconds elsewhere, nothing, or JSON."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

EVERY_S = 10.0

_mode = "auto"
_live: Any = None  # rich's display, while one is up


def set_mode(mode: Literal["auto", "quiet", "json"]) -> None:
    """Choose how progress is shown; "auto" is live on a terminal and plain lines elsewhere."""
    global _mode
    _mode = mode


def say(text: str, **fields: Any) -> None:
    """Print a result to standard output, in every mode; in "json" as an object that has the fields too."""
    if _mode == "json":
        text = to_json({"event": "say", "text": text, **fields})
    print(text, flush=True)  # noqa: T201 (a live display takes standard output over and prints above itself)


def to_json(value: Any, indent: int | None = None) -> str:
    """Write plain values as JSON; a number that is not finite, for which JSON has no word, becomes null."""
    text = json.dumps(value, default=lambda held: held.item() if hasattr(held, "item") else str(held))
    return json.dumps(json.loads(text, parse_constant=lambda _: None), indent=indent)


class Progress:
    """One piece of work under way, from `progress`."""

    def __init__(self, title: str, total: int | None, unit: str):
        self.title, self.total, self.unit, self.done = title, total, unit, 0
        self._numbers: dict[str, Any] = {}
        self._start = time.monotonic()
        self._task = _live.add_task(title, total=total, tail="") if _live else None
        self._show("progress")

    def advance(self, n: int = 1, **numbers: Any) -> None:
        """Count `n` more units done; the latest numbers are shown beside."""
        self.done += n
        self._numbers |= numbers
        if self._task is not None:
            _live.update(self._task, completed=self.done, tail=self._tail())
        elif time.monotonic() - self._shown >= EVERY_S:
            self._show("progress")

    def note(self, text: str) -> None:
        """Print a remark."""
        self._print(f"{self.title}: {text}", event="note", title=self.title, text=text)

    def _show(self, event: str) -> None:
        self._shown = time.monotonic()
        if self._task is None:
            seconds = self._shown - self._start
            tail = self._tail() + (f" in {seconds:.1f} s" if event == "done" else "")
            told = {"done": self.done, "total": self.total, "unit": self.unit, "seconds": round(seconds, 3)}
            self._print(f"{self.title}: {tail}", event=event, title=self.title, **told, numbers=self._numbers)

    def _tail(self) -> str:
        parts = [f"{self.done:,}" + (f"/{self.total:,}" if self.total is not None else "") + f" {self.unit}"]
        if (seconds := time.monotonic() - self._start) and self.done:
            parts.append(f"{self.done / seconds:,.3g} {self.unit}/s")
        return "  ".join(parts + [f"{key} {_short(value)}" for key, value in self._numbers.items()])

    def _print(self, line: str, **event: Any) -> None:
        if _live:
            _live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        elif _mode != "quiet":
            print(to_json(event) if _mode == "json" else line, file=sys.stderr, flush=True)  # noqa: T201


def _short(value: Any) -> str:
    return f"{float(value):.4g}" if isinstance(value, float) or hasattr(value, "item") else str(value)


@contextmanager
def progress(title: str, total: int | None = None, unit: str = "it") -> Iterator[Progress]:
    """Show, on standard error, the progress of the work in the `with` block: `total` units, if that is known."""
    global _live
    if _live or _mode != "auto" or not sys.stderr.isatty():
        work = Progress(title, total, unit)
        try:
            yield work
        finally:
            work._show("done")
        return
    from rich import progress as rich
    from rich.console import Console

    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.TextColumn("{task.fields[tail]}"))
    columns = (*columns, rich.TimeRemainingColumn())
    with rich.Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as _live:
        try:
            yield Progress(title, total, unit)
        finally:
            _live = None
