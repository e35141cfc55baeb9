"""A game as a picture or as text."""

from __future__ import annotations

import sys

import numpy as np

from matryo.empathy.envs.world import State, World

CELL = 40
PAPER, GRID, COIN, SEEN = (250, 250, 248), (214, 216, 220), (226, 178, 40), (232, 240, 252)
LEARNER, OTHERS, DEAD = (47, 126, 216), (224, 118, 26), (176, 180, 186)


def draw_game(world: World, state: State, game: int = 0, cell: int = CELL) -> np.ndarray:
    """Draw one game of a batch: (height, width, 3) uint8.

    What the learner sees is tinted. The learner is blue, others are orange, the dead grey; a number is the coins
    held, a bar at an agent's lower and right edge its weapon.
    """
    from PIL import Image, ImageDraw

    size = world.rules.size
    image = Image.new("RGB", (size * cell + 1, size * cell + 1), PAPER)
    pen = ImageDraw.Draw(image)
    for at in world.seen[state.cells[game, 0]]:
        y, x = divmod(int(at), size)
        pen.rectangle((x * cell, y * cell, (x + 1) * cell, (y + 1) * cell), fill=SEEN)
    for i in range(size + 1):
        pen.line((i * cell, 0, i * cell, size * cell), fill=GRID)
        pen.line((0, i * cell, size * cell, i * cell), fill=GRID)
    for at in np.flatnonzero(state.coins[game]):
        y, x = divmod(int(at), size)
        inset = cell * 0.34
        pen.ellipse((x * cell + inset, y * cell + inset, (x + 1) * cell - inset, (y + 1) * cell - inset), fill=COIN)
    shared = state.cells[game].tolist()
    for agent in reversed(range(world.agents)):
        y, x = divmod(shared[agent], size)
        colour = (LEARNER if agent == 0 else OTHERS) if state.alive[game, agent] else DEAD
        together = shared.count(shared[agent]) > 1
        shift = (cell * 0.14 * (-1 if agent == 0 else 1)) if together else 0
        inset = cell * (0.28 if together else 0.2)
        box = (x * cell + inset + shift, y * cell + inset, (x + 1) * cell - inset + shift, (y + 1) * cell - inset)
        pen.ellipse(box, fill=colour)
        if world.has_coins:
            pen.text(
                ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2),
                str(int(state.held[game, agent])),
                fill="white",
                anchor="mm",
                font_size=cell * 0.32,
            )
        elif world.has_weapons and state.alive[game, agent]:
            far = cell * 0.1
            pen.line((box[0], box[3] + far, box[2], box[3] + far), fill=colour, width=max(2, cell // 13))
            pen.line((box[2] + far, box[1], box[2] + far, box[3]), fill=colour, width=max(2, cell // 13))
    return np.asarray(image)


def print_game(world: World, state: State, game: int = 0, to_terminal: bool = True) -> str:
    """Set one game as text: L the learner, 1, 2 … the others, x the dead, * both on one cell, o a coin."""
    size = world.rules.size
    board = np.where(state.coins[game], "o", ".").astype("<U1")
    cells = state.cells[game]
    for agent in reversed(range(world.agents)):
        mark = ("L" if agent == 0 else str(agent % 10)) if state.alive[game, agent] else "x"
        taken = str(board[cells[agent]]) not in ".ox"
        board[cells[agent]] = "*" if taken and mark != "x" else board[cells[agent]] if taken else mark
    lines = [" ".join(row) for row in board.reshape(size, size)]
    lines.append(f"step {int(state.step[game])}" + (f"  coins {state.held[game].tolist()}" if world.has_coins else ""))
    text = "\n".join(lines) + "\n"
    if to_terminal:
        clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
        sys.stdout.write(clear + text)
        sys.stdout.flush()
    return text
