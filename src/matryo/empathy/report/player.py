"""Replays as one HTML file that plays them: no request to anywhere, no library."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, Template
from markupsafe import Markup

from matryo.empathy.evaluate import Recording
from matryo.empathy.report.animation import value_range
from matryo.spine.config import write_text

_count = itertools.count(1)
_HERE = Path(__file__).parent


def player_fragment(recordings: Sequence[Recording]) -> Markup:
    """A player of games side by side, to be set into a page: markup, style and script in one."""
    data = json.dumps([_plain(recording) for recording in recordings], separators=(",", ":")).replace("<", "\\u003c")
    script = Markup((_HERE / "player.js").read_text(encoding="utf-8"))
    coined = any(recording.world.has_coins for recording in recordings)
    armed = any(recording.world.has_weapons for recording in recordings)
    shown = {"id": f"player{next(_count)}", "data": Markup(data), "script": script, "coined": coined, "armed": armed}
    return Markup(_template("player.html").render(shown))


def write_player(recordings: Sequence[Recording], path: Path, title: str) -> None:
    """Write a page that holds nothing but the player."""
    write_text(path, _template("page.html").render(title=title, player=player_fragment(recordings)))


def _template(name: str) -> Template:
    return Environment(autoescape=True).from_string((_HERE / name).read_text(encoding="utf-8"))


def _plain(recording: Recording) -> dict[str, Any]:
    low, high = value_range(recording)
    world = recording.world
    return {
        "title": recording.title,
        "ending": recording.ending,
        "size": world.rules.size,
        "coined": world.has_coins,
        "armed": world.has_weapons,
        "low": low,
        "high": high,
        "frames": [
            {
                "c": frame.state.cells[0].tolist(),
                "a": frame.state.alive[0].astype(int).tolist(),
                "h": frame.state.held[0].tolist(),
                "o": frame.state.coins[0].nonzero()[0].tolist(),
                "m": frame.action,
                "k": int(frame.killed),
                "v": [None if v is None else [round(float(x), 3) for x in v]
                      for v in (frame.own, frame.other, frame.empathic)],
            }
            for frame in recording.frames
        ],
    }  # fmt: skip
