"""Features that form a tree, and activations made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matryo.spine.seeding import numpy_generator, torch_generator


@dataclass(frozen=True)
class Tree:
    """Binary features, each with a probability given its parent.

        P(i active | parent active) = p_i,  0 when the parent is inactive; roots' parent (−1) is always active.

    Children of one parent are independent, or exclusive: then at most one is active, child i with probability p_i and
    none with 1 − Σ p_i.
    """

    parent: tuple[int, ...]
    "Index of each feature's parent, smaller than its own; −1 for a root."
    p: tuple[float, ...]
    exclusive: tuple[bool, ...]
    "For every feature, whether its children exclude each other."

    def __post_init__(self) -> None:
        """Check that it is a tree and that probabilities are."""
        if any(not -1 <= parent < i for i, parent in enumerate(self.parent)):
            raise ValueError(f"parents are {self.parent}; expected each before its children, −1 for roots")
        if any(not 0 < p <= 1 for p in self.p):
            raise ValueError(f"probabilities are {self.p}; expected numbers above 0, at most 1")
        for i, exclusive in enumerate(self.exclusive):
            total = sum(self.p[j] for j in self.children(i))
            if exclusive and total > 1 + 1e-9:
                raise ValueError(f"exclusive children of feature {i} have probabilities of sum {total}; expected ≤ 1")

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.parent)

    @property
    def parents(self) -> tuple[int, ...]:
        """The features that have children."""
        return tuple(sorted({parent for parent in self.parent if parent >= 0}))

    def children(self, i: int) -> tuple[int, ...]:
        """The features whose parent is `i`."""
        return tuple(j for j, parent in enumerate(self.parent) if parent == i)

    @property
    def marginal(self) -> tuple[float, ...]:
        """P(i active) of every feature."""
        found: list[float] = []
        for parent, p in zip(self.parent, self.p, strict=True):
            found.append(p * (found[parent] if parent >= 0 else 1.0))
        return tuple(found)

    @property
    def l0(self) -> float:
        """Mean number of active features, Σ P(i active)."""
        return sum(self.marginal)

    def sample(self, count: int, generator: torch.Generator) -> Bool[Tensor, "count features"]:
        """Which features are active in each of `count` draws."""
        u = torch.rand(count, self.size, generator=generator)
        active = torch.zeros(count, self.size, dtype=torch.bool)
        for i, parent in enumerate(self.parent):
            above = active[:, parent] if parent >= 0 else torch.ones(count, dtype=torch.bool)
            if parent >= 0 and self.exclusive[parent]:
                # One number decides among all of a parent's children: that of the first.
                family = self.children(parent)
                start = sum(self.p[j] for j in family if j < i)
                draw = u[:, family[0]]
                active[:, i] = above & (draw >= start) & (draw < start + self.p[i])
            else:
                active[:, i] = above & (u[:, i] < self.p[i])
        return active


def paper_tree() -> Tree:
    """The tree of Bussmann et al. (2025), appendix C.1: 3 parents with 3 exclusive children each, and 8 leaves.

    Parents have p = 0.15, their children 0.2 each (none in 40 %), leaves 0.05: 20 features, mean L0 1.12. (The paper
    says 1.2338, which does not follow from its tree.)
    """
    parent = [-1, -1, -1, *(i for i in range(3) for _ in range(3)), *[-1] * 8]
    p = [0.15] * 3 + [0.2] * 9 + [0.05] * 8
    return Tree(tuple(parent), tuple(p), tuple(i < 3 for i in range(20)))


def families_tree(parents: int = 24, children: int = 12, p: float = 0.12, p_child: float = 0.8) -> Tree:
    """Equal families: of an active parent's children one is active with probability `p_child`, never two.

    With the defaults 312 features and an L0 of 24 · 0.12 · 1.8 = 5.184. A direction is worth a meta-latent when many
    rows share it; here twelve may, those of one parent's children.
    """
    family = 1 + children
    parent = tuple(-1 if i % family == 0 else i - i % family for i in range(parents * family))
    chances = tuple(p if above < 0 else p_child / children for above in parent)
    return Tree(parent, chances, tuple(above < 0 for above in parent))


def generated_tree(size: int, depth: int = 3, l0: float = 6.0, seed: int = 0) -> Tree:
    """A random tree of at least `size` features: roots with 2 to 5 children, half of which have as many again.

    There are `depth` generations. A child has p between 0.15 and 0.4; children of half of the parents exclude each
    other. Roots get the probabilities, in proportion to a power law (rank^−0.5), that make the mean number of active
    features `l0`.

    Raises:
        ValueError: fewer than 10 features or one generation, or an L0 that so few features cannot have.
    """
    if size < 10 or depth < 2:
        raise ValueError(f"size is {size} and depth {depth}; expected at least 10 features and 2 generations")
    draw = numpy_generator(seed, "tree", size, depth)
    parent, p, exclusive, level = [], [], [], []

    def grow(above: int, at: int, chance: float) -> None:
        here = len(parent)
        parent.append(above)
        p.append(chance)
        exclusive.append(bool(draw.random() < 0.5))
        level.append(at)
        if at + 1 < depth and (at == 0 or draw.random() < 0.5):
            for _ in range(int(draw.integers(2, 6))):
                # At most 0.2 each for exclusive children, of whom there may be five.
                grow(here, at + 1, float(draw.uniform(0.15, 0.2 if exclusive[here] else 0.4)))

    roots = []
    while len(parent) < size:
        roots.append(len(parent))
        grow(-1, 0, 1.0)
    weights = np.arange(1, len(roots) + 1) ** -0.5
    reach = np.array([_below(parent, p, root) for root in roots])
    scale = l0 / float((weights * reach).sum())
    for root, weight in zip(roots, weights, strict=True):
        p[root] = float(scale * weight)
    if max(p) > 0.5:
        raise ValueError(
            f"l0 is {l0}; expected less with {len(parent)} features: a root would be active on most tokens"
        )
    return Tree(tuple(parent), tuple(p), tuple(exclusive))


def _below(parent: list[int], p: list[float], root: int) -> float:
    """Expected number of active features of a root's family when it is active."""
    expected = {root: 1.0}
    for i in range(root + 1, len(parent)):
        if parent[i] in expected:
            expected[i] = expected[parent[i]] * p[i]
    return sum(expected.values())


@dataclass(frozen=True, eq=False)
class World:
    """A tree and a direction for each of its features: x = Σ_i a_i m_i v_i, a_i binary, m_i a magnitude near 1."""

    tree: Tree
    directions: Float[Tensor, "features d"]
    spread: float = 0.0
    "Standard deviation of the magnitudes, which are |N(1, spread)|."

    @classmethod
    def make(cls, tree: Tree, d: int, seed: int = 0, spread: float = 0.0) -> World:
        """Directions at random: orthogonal where there is room, else merely random; norms 1 + 0.05 · N(0, 1)."""
        generator = torch_generator(seed, "directions", d)
        rows = torch.randn(max(d, tree.size), d, generator=generator)
        rows = torch.linalg.qr(rows.t())[0].t() if tree.size <= d else rows / rows.norm(dim=1, keepdim=True)
        norms = 1 + 0.05 * torch.randn(tree.size, 1, generator=generator)
        return cls(tree, rows[: tree.size] * norms, spread)

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(activations (count, d), which features are active (count, features))."""
        active = self.tree.sample(count, generator)
        weights = active.float()
        if self.spread:
            weights = weights * (1 + self.spread * torch.randn(weights.shape, generator=generator)).abs()
        return weights @ self.directions, active


@dataclass(frozen=True, eq=False)
class Draws:
    """Batches of a world without end, the same for the same seed: what `train` takes."""

    world: World
    batch_size: int
    seed: int

    def __iter__(self) -> Iterator[Tensor]:
        """Batches of activations."""
        generator = torch_generator(self.seed, "draws")
        # Drawn many at a time: one batch costs hardly less than twenty.
        while True:
            yield from self.world.sample(20 * self.batch_size, generator)[0].split(self.batch_size)
