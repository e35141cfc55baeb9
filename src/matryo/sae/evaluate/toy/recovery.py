"""How well an autoencoder found planted features: matching, cosines, absorption, splitting; all against the truth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matryo.sae.evaluate.toy.tree import World
from matryo.sae.nn import SAE
from matryo.spine.seeding import torch_generator

SPLIT_GAIN = 0.03
"""F1 that another latent must add to count as one more of a feature's (SAEBench's τ_fs)."""


@dataclass(frozen=True)
class Recovery:
    """One autoencoder in its world. Latents are matched to features one to one."""

    cosine: float
    "Mean over features of the cosine of their direction with their latent's decoder row."
    parent_active: float
    "Mean over parents: on tokens where a child is active, the share on which the parent's latent is active too."
    absorption: float
    "Mean over (parent, child): on tokens with the child, the share where its latent is active and the parent's is not."
    mixing: float
    "Mean over children of the cosine of their latent's decoder row with their parent's direction; 0 in the truth."
    split: float
    "Mean over features of the latents that together tell best when it is active (F1, each adding at least 0.03)."
    f1: float
    "Mean over features of the F1 of their latent's being active."
    dead: float
    l0: float
    true_l0: float
    "Mean active features per token."
    fvu: float


@dataclass(frozen=True, eq=False)
class Found:
    """A recovery with what its figures show."""

    recovery: Recovery
    latent: tuple[int, ...]
    "The latent matched to every feature."
    cosines: Float[Tensor, "features features"]
    "Of matched decoder rows (rows) with the features' directions (columns)."
    together: Float[Tensor, "features features"]
    "Share of tokens with feature (column) on which the latent matched to feature (row) is active."
    per_feature: tuple[dict[str, float | None], ...]


@torch.no_grad()
def measure_recovery(sae: SAE, world: World, samples: int = 20_000, seed: int = 0) -> Found:
    """Match latents to features on fresh samples, and compare with what was planted.

    The match maximises Σ (latent's activation / its largest) · (feature active) over all tokens (Hungarian method), as
    the paper's code does. A latent is active where it is positive.

    Raises:
        ValueError: fewer latents than features, or too few samples for every feature to occur.
    """
    if sae.config.n_latents < world.tree.size:
        raise ValueError(
            f"there are {sae.config.n_latents} latents for {world.tree.size} features; expected at least one each"
        )
    x, active = world.sample(samples, torch_generator(seed, "toy evaluation"))
    if not bool(active.any(0).all()):
        raise ValueError(f"some feature is active on none of {samples} samples; expected more samples")
    z = sae.eval().encode(x)
    latent = match(z, active)
    fires = z > 0
    mine = fires[:, list(latent)]
    rows = _unit(sae.W_dec[list(latent)])
    cosines = rows @ _unit(world.directions).t()
    together = (mine.float().t() @ active.float()) / active.sum(0)
    tree = world.tree
    children = [i for i, parent in enumerate(tree.parent) if parent >= 0]
    absorbed = {i: _share(mine[:, i] & ~mine[:, tree.parent[i]], active[:, i]) for i in children}
    with_child = {p: active[:, list(tree.children(p))].any(1) for p in tree.parents}
    parents = {p: _share(mine[:, p], where) for p, where in with_child.items()}
    f1 = [f1_of(mine[:, i], active[:, i]) for i in range(tree.size)]
    splits = [split_latents(fires, active[:, i]) for i in range(tree.size)]
    error = (x - sae(x)).double().square().sum() / (x - x.mean(0)).double().square().sum()
    recovery = Recovery(
        cosine=float(cosines.diag().mean()),
        parent_active=_mean(parents.values()),
        absorption=_mean(absorbed.values()),
        mixing=_mean(float(cosines[i, tree.parent[i]]) for i in children),
        split=_mean(splits),
        f1=_mean(f1),
        dead=float((~fires.any(0)).double().mean()),
        l0=float(fires.sum(1).double().mean()),
        true_l0=float(active.sum(1).double().mean()),
        fvu=float(error),
    )
    per_feature = tuple(
        {
            "parent": float(tree.parent[i]),
            "marginal": tree.marginal[i],
            "latent": float(latent[i]),
            "cosine": float(cosines[i, i]),
            "f1": f1[i],
            "split": float(splits[i]),
            "absorbed": absorbed.get(i),
            "active_with_children": parents.get(i),
        }
        for i in range(tree.size)
    )
    return Found(recovery, latent, cosines, together, per_feature)


def match(z: Float[Tensor, "tokens latents"], active: Bool[Tensor, "tokens features"]) -> tuple[int, ...]:
    """The latent of every feature: the one-to-one match of largest summed overlap."""
    from scipy.optimize import linear_sum_assignment

    largest = z.amax(0)
    scaled = z / torch.where(largest > 0, largest, 1.0)
    overlap = active.float().t() @ scaled
    _, latents = linear_sum_assignment(overlap.double().numpy(), maximize=True)
    return tuple(int(i) for i in latents)


def f1_of(said: Bool[Tensor, "tokens"], true: Bool[Tensor, "tokens"]) -> float:
    """2 TP / (2 TP + FP + FN)."""
    both = int((said & true).sum())
    total = int(said.sum()) + int(true.sum())
    return 2 * both / total if total else 0.0


def split_latents(fires: Bool[Tensor, "tokens latents"], true: Bool[Tensor, "tokens"]) -> int:
    """How many latents a feature is spread over: 1 + those whose firing, joined by "or", adds SPLIT_GAIN to F1 each."""
    said, best, count = torch.zeros_like(true), 0.0, 0
    total = int(true.sum())
    while True:
        joined = fires | said[:, None]
        hits = (joined & true[:, None]).sum(0).double()
        scores = 2 * hits / (joined.sum(0) + total)
        top = int(scores.argmax())
        if count and float(scores[top]) < best + SPLIT_GAIN:
            return count
        said, best, count = joined[:, top], float(scores[top]), count + 1


def _share(said: Bool[Tensor, "tokens"], where: Bool[Tensor, "tokens"]) -> float:
    return float(said[where].double().mean())


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def _unit(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    norms = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)
