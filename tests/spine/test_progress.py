import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from matryo.spine import progress as module
from matryo.spine.progress import progress, say, set_mode


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    yield now
    set_mode("auto")


def work(clock):
    with progress("harvest", total=6, unit="tok") as bar:
        for _ in range(6):
            clock[0] += 4.0
            bar.advance(1, fvu=0.123456)
        bar.note("half way")


def test_elsewhere_than_on_a_terminal_a_plain_line_comes_at_most_every_ten_seconds(clock, capsys):
    work(clock)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "harvest: 0/6 tok",
        "harvest: 3/6 tok  0.25 tok/s  fvu 0.1235",
        "harvest: 6/6 tok  0.25 tok/s  fvu 0.1235",
        "harvest: half way",
        "harvest: 6/6 tok  0.25 tok/s  fvu 0.1235 in 24.0 s",
    ]


def test_the_last_line_comes_after_an_error_too(clock, capsys):
    with pytest.raises(RuntimeError), progress("work"):
        raise RuntimeError
    assert capsys.readouterr().err.splitlines() == ["work: 0 it", "work: 0 it in 0.0 s"]


def test_quiet_says_results_only(clock, capsys):
    set_mode("quiet")
    work(clock)
    say("fvu 0.13")
    assert capsys.readouterr() == ("fvu 0.13\n", "")


def test_json_is_one_object_a_line(clock, capsys):
    set_mode("json")
    work(clock)
    say("fvu 0.13", fvu=0.13)
    said = capsys.readouterr()
    events = [json.loads(line) for line in said.err.splitlines()]
    assert [event["event"] for event in events] == ["progress", "progress", "progress", "note", "done"]
    assert events[-1]["numbers"] == {"fvu": 0.123456}
    assert (events[-1]["done"], events[-1]["total"], events[-1]["seconds"]) == (6, 6, 24.0)
    assert json.loads(said.out) == {"event": "say", "text": "fvu 0.13", "fvu": 0.13}


def test_a_terminal_gets_a_live_line_and_standard_output_stays_clean(clock, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress("outer", total=2, unit="tok") as outer:
        outer.advance(2, fvu=0.5)
        with progress("inner") as inner:
            inner.note("a remark [with brackets]")
        say("a result")
    shown = terminal.getvalue()
    assert "2/2 tok" in shown
    assert "fvu 0.5" in shown
    assert "inner: a remark [with brackets]" in shown
    assert "a result" not in shown
    assert capsys.readouterr().out == "a result\n"
    assert module._live is None


def test_json_has_null_for_what_is_no_number(capsys):
    set_mode("json")
    with progress("train") as bar:
        bar.advance(1, fvu=float("nan"), l0=np.float32(2.5))
    say("done", scores={"auc": float("nan"), "low": [float("-inf"), 1.0]}, path=Path("a"))
    said = capsys.readouterr()
    lines = [*said.err.splitlines(), said.out]
    events = [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in lines]
    assert events[1]["numbers"] == {"fvu": None, "l0": 2.5}
    assert events[2]["scores"] == {"auc": None, "low": [None, 1.0]} and events[2]["path"] == "a"
