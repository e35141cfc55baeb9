"""Replays as animated GIFs: the boards, and beneath each what the agent thinks of every move."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matryo.empathy.envs import draw_game
from matryo.empathy.evaluate import Frame, Recording

ARROWS = ("down", "up", "right", "left", "stay")
INK, SOFT, LINE, PAPER = (29, 33, 38), (91, 101, 112), (214, 216, 220), (255, 255, 255)
BARS = {"self": (47, 126, 216), "other": (224, 118, 26), "acts on": (42, 157, 98)}
PANEL, HEAD, GAP, BAR = 166, 40, 18, 78


def write_gif(recordings: Sequence[Recording], path: Path, longest: int = 150, frame_ms: int = 180) -> int:
    """Write recordings side by side as one GIF; those that end early wait. Returns the number of frames.

    Bars are scaled over each game; the move taken is underlined. "self" is Q, "other" the other's part of Q_emp, "acts
    on" Q_emp.

    Args:
        recordings: One to four games.
        path: Where to.
        longest: Frames at most.
        frame_ms: Milliseconds a frame.
    """
    count = min(longest, max(len(r.frames) for r in recordings))
    pages = [_page(recordings, i) for i in range(count)]
    deaths = [i for r in recordings for i, frame in enumerate(r.frames[:count]) if frame.killed][:3]
    palette = _palette([pages[i] for i in {0, count // 2, count - 1, *deaths}])
    pictures = [page.quantize(palette=palette, dither=0) for page in pages]
    times = [frame_ms] * (count - 1) + [1500]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=False)
    return count


def _page(recordings: Sequence[Recording], i: int) -> Any:
    from PIL import Image

    columns = [_column(r, min(i, len(r.frames) - 1)) for r in recordings]
    width = sum(c.width for c in columns) + GAP * (len(columns) + 1)
    page = Image.new("RGB", (width, max(c.height for c in columns) + GAP), PAPER)
    for j, column in enumerate(columns):
        page.paste(column, (GAP + j * (column.width + GAP), 0))
    return page


def _palette(pages: Sequence[Any]) -> Any:
    """One palette for all frames, from those that have all colours: quicker, and nothing flickers."""
    from PIL import Image

    width, height = pages[0].size
    together = Image.new("RGB", (width, height * len(pages)))
    for j, page in enumerate(pages):
        together.paste(page, (0, j * height))
    return together.quantize(128)


def _column(recording: Recording, i: int) -> Any:
    from PIL import Image, ImageDraw

    frame = recording.frames[i]
    board = Image.fromarray(draw_game(recording.world, frame.state))
    image = Image.new("RGB", (board.width, HEAD + board.height + PANEL), PAPER)
    image.paste(board, (0, HEAD))
    pen = ImageDraw.Draw(image)
    pen.text((0, 6), recording.title, fill=INK, font_size=14)
    told = f"step {int(frame.state.step[0])}" + ("  a death" if frame.killed else "")
    if i == len(recording.frames) - 1:
        told = f"step {int(frame.state.step[0])}: {recording.ending}"
    pen.text((0, 23), told, fill=(190, 40, 40) if frame.killed else SOFT, font_size=12)
    _bars(pen, recording, frame, HEAD + board.height + 8, board.width)
    return image


def _bars(pen: Any, recording: Recording, frame: Frame, top: int, width: int) -> None:
    series = thoughts(frame)
    low, high = value_range(recording)
    each = width / len(ARROWS)
    base = top + BAR
    for a, name in enumerate(ARROWS):
        left = a * each + 4
        thick = (each - 10) / len(BARS)
        for j, (key, colour) in enumerate(BARS.items()):
            value = series[key]
            if value is not None:
                height = (float(value[a]) - low) / (high - low) * BAR
                pen.rectangle((left + j * thick, base - height, left + (j + 1) * thick - 2, base), fill=colour)
                told = base + 26 + 11 * j
                pen.text((a * each + each / 2, told), f"{value[a]:.2f}", fill=colour, anchor="mm", font_size=10)
        pen.text((a * each + each / 2, base + 8), name, fill=INK, anchor="mm", font_size=11)
        if frame.action == a:
            pen.line((left, base + 17, left + each - 10, base + 17), fill=INK, width=2)
    at = 0.0
    for key, colour in BARS.items():
        pen.rectangle((at, base + 61, at + 9, base + 70), fill=colour)
        label = key if series[key] is not None or key != "other" else "other (none: selfish)"
        pen.text((at + 13, base + 65), label, fill=SOFT, anchor="lm", font_size=11)
        at += 24 + pen.textlength(label, font_size=11)


def thoughts(frame: Frame) -> dict[str, np.ndarray | None]:
    """A frame's values by the names they are shown under."""
    return {"self": frame.own, "other": frame.other, "acts on": frame.empathic}


def value_range(recording: Recording) -> tuple[float, float]:
    """Least and largest value of a game: what its bars are scaled to."""
    values = [v for frame in recording.frames for v in thoughts(frame).values() if v is not None]
    low, high = float(np.min(values)), float(np.max(values))
    return low - 0.05 * (high - low + 1e-6), high + 1e-6
