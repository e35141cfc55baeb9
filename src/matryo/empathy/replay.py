"""Memory of transitions: one ring of bytes for each member of an ensemble."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Transitions:
    """Transitions of M members, B each; views are (…, cells) uint8, a view's planes laid end to end."""

    obs: np.ndarray
    "(M, B, cells) what the learner saw"
    action: np.ndarray
    "(M, B)"
    next_views: np.ndarray
    "(M, B, A, cells) what everyone saw after it, the learner first"
    share: np.ndarray
    "(M, B, others) how much each other's value counts, see `swap.share`"
    reward: np.ndarray
    "(M, B)"
    other_reward: np.ndarray
    "(M, B, others): for controls only"
    kills: np.ndarray
    "(M, B) others killed in the step"
    terminated: np.ndarray
    "(M, B)"


class ReplayRing:
    """The newest `capacity` transitions of each member, as unsigned bytes and a few floats; all members add at once."""

    def __init__(self, members: int, capacity: int, cells: int, others: int) -> None:
        if capacity < 1:
            raise ValueError(f"buffer is {capacity}; expected room for 1 transition or more")
        self.capacity, self.cells, self.others, self.added = capacity, cells, others, 0
        seen = cells * (2 + others)
        self._parts = np.cumsum([cells, cells * (1 + others), 1, 1, 1])
        self._bytes = np.zeros((members, capacity, seen + 3), dtype=np.uint8)
        self._floats = np.zeros((members, capacity, 1 + 2 * others), dtype=np.float32)
        self._member = np.arange(members)[:, None]

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, one: Transitions) -> None:
        """Store one transition of each member (B = 1), over the oldest if there is no room."""
        members = len(self._member)
        flags = [one.action, one.kills, one.terminated]
        parts = [one.obs.reshape(members, -1), one.next_views.reshape(members, -1), *flags]
        at = self.added % self.capacity
        self._bytes[:, at] = np.concatenate(parts, axis=1, dtype=np.uint8, casting="unsafe")
        floats = [one.reward, one.share.reshape(members, -1), one.other_reward.reshape(members, -1)]
        self._floats[:, at] = np.concatenate(floats, axis=1)
        self.added += 1

    def sample(self, draws: np.ndarray) -> Transitions:
        """Take transitions uniformly, with replacement, from (M, B) uniform numbers."""
        index = (draws * len(self)).astype(np.int64)
        rows, floats = self._bytes[self._member, index], self._floats[self._member, index]
        a, b, c, d, _ = self._parts
        return Transitions(
            obs=rows[..., :a],
            next_views=rows[..., a:b].reshape(*index.shape, 1 + self.others, self.cells),
            action=rows[..., b],
            kills=rows[..., c],
            terminated=rows[..., d].astype(bool),
            reward=floats[..., 0],
            share=floats[..., 1 : 1 + self.others],
            other_reward=floats[..., 1 + self.others :],
        )

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint needs: the filled part, and how much was ever added."""
        n = len(self)
        return {"bytes": self._bytes[:, :n], "floats": self._floats[:, :n], "added": np.array([self.added])}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go back to where `state` was taken."""
        n = state["bytes"].shape[1]
        self._bytes[:, :n], self._floats[:, :n] = state["bytes"], state["floats"]
        self.added = int(state["added"][0])
