"""Replays as one HTML file that plays them: no request to anywhere, no library."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from matryo.empathy.evaluate import Recording
from matryo.empathy.report.animation import value_range
from matryo.spine.config import write_text

_count = itertools.count(1)
_HERE = Path(__file__).parent


def player_fragment(recordings: Sequence[Recording]) -> Markup:
    """A player of games side by side, to be set into a page: markup, style and script in one."""
    data = json.dumps([_plain(recording) for recording in recordings], separators=(",", ":")).replace("<", "\\u003c")
    env = Environment(autoescape=True)
    template = env.from_string((_HERE / "player.html").read_text(encoding="utf-8"))
    script = (_HERE / "player.js").read_text(encoding="utf-8")
    return Markup(template.render(id=f"player{next(_count)}", data=Markup(data), script=Markup(script)))


def write_player(recordings: Sequence[Recording], path: Path, title: str) -> None:
    """Write a page that holds nothing but the player."""
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        "<title>{0}</title><style>:root{{--ink:#1d2126;--paper:#fff;--soft:#5b6570;--line:#dfe3e8}}"
        "@media(prefers-color-scheme:dark){{:root{{--ink:#e3e6ea;--paper:#16191d;--soft:#9aa4af;--line:#343a42}}}}"
        "body{{margin:1.5rem auto;padding:0 1rem;max-width:75rem;background:var(--paper);color:var(--ink);"
        'font:16px/1.5 system-ui,"Segoe UI",sans-serif}}h1{{font-size:1.3rem}}</style></head><body><h1>{0}</h1>\n{1}\n</body></html>\n'
    )
    write_text(path, str(Markup(page).format(title, player_fragment(recordings))))


def _plain(recording: Recording) -> dict[str, Any]:
    low, high = value_range(recording)
    world = recording.world
    return {
        "title": recording.title,
        "ending": recording.ending,
        "size": world.rules.size,
        "coined": world.has_coins,
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
