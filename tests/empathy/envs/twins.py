"""The rules once more, in plain Python from their description in words: one game, no arrays, no tables."""

MOVES = {0: (1, 0), 1: (-1, 0), 2: (0, 1), 3: (0, -1), 4: (0, 0)}


def move(cell, action, size=7):
    return (cell[0] + MOVES[action][0]) % size, (cell[1] + MOVES[action][1]) % size


def reaches(carrier, target, wraps, size=7):
    """Whether a weapon at `carrier`, which points down and right, reaches `target`."""
    for down, right in ((1, 0), (0, 1)):
        cell = (carrier[0] + down, carrier[1] + right)
        if wraps:
            cell = (cell[0] % size, cell[1] % size)
        if cell == target:
            return True
    return False


def coexistence(learner, other, other_alive, action, other_action, published):
    """One step: where both stand after it, whether the learner died, whether the other was killed."""
    learner, other = move(learner, action), move(other, other_action)
    if not other_alive:
        return learner, other, False, False
    wraps = not published
    died = reaches(other, learner, wraps) or (published and learner == other and action not in (0, 2))
    killed = not died and reaches(learner, other, wraps)
    return learner, other, died, killed


class SharingGame:
    """A whole game of Sharing, as dictionaries and sets."""

    def __init__(self, learner_first):
        self.coins = {(r, c) for r in (1, 3, 5) for c in (1, 3, 5)}
        self.at = {"learner": (3, 3), "other": (3, 3)}
        self.held = {"learner": 0, "other": 0}
        self.step_count, self.learner_first = 0, learner_first

    def step(self, action):
        """The learner's action; returns both rewards and whether the game is over."""
        rewards = {"learner": 0.0, "other": 0.0}
        sweep = 1 if self.step_count % 7 == 0 else 2
        turns = [("learner", action), ("other", sweep)]
        if self.step_count == 0:
            turns = turns[:1] if self.learner_first else turns[1:]
        for who, what in turns:
            self.at[who] = move(self.at[who], what)
            if self.at[who] in self.coins:
                self.coins.remove(self.at[who])
                self.held[who] += 1
                rewards[who] = 1.1 - 0.1 * self.held[who]
        self.step_count += 1
        return rewards["learner"], rewards["other"], not self.coins


def view(board, centre, size=7):
    """The 5 × 5 square of a board (cell → number) about a cell."""
    return [
        [board.get(((centre[0] + r) % size, (centre[1] + c) % size), 0) for c in range(-2, 3)] for r in range(-2, 3)
    ]
