"""The way from one SAE to a larger one of its site: which latents come and go at which step, and the error at each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matryo.sae.compare.match import Edges
from matryo.sae.compare.stitch import join
from matryo.sae.kernels import decode
from matryo.sae.metrics import FvuMeter
from matryo.sae.nn import JumpReLU

NEVER = 2**30
"""The step at which a latent that stays leaves."""


@dataclass(frozen=True)
class Unit:
    """What one step does: latents of the larger SAE that enter, latents of the smaller that leave."""

    phase: str
    "insert: a novel latent; swap: a component of the similarity graph; rest: what no edge holds; b_dec."
    added: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Path:
    """Units in order. Step s is reached when the first s units are done; step 0 is the smaller SAE."""

    units: tuple[Unit, ...]
    enters: np.ndarray
    "(n_large,): the step at which each latent of the larger enters."
    leaves: np.ndarray
    "(n_small,): the step at which each latent of the smaller leaves."

    @property
    def b_dec_step(self) -> int:
        """The step at which b_dec becomes the larger's."""
        return 1 + next(number for number, unit in enumerate(self.units) if unit.phase == "b_dec")

    def at(self, step: int, small: JumpReLU, large: JumpReLU) -> JumpReLU:
        """The stitched SAE of a step.

        Raises:
            ValueError: the path has no such step.
        """
        if not 0 <= step <= len(self.units):
            raise ValueError(f"step is {step}; expected 0 to {len(self.units)}, the steps of the path")
        stay, here = torch.from_numpy(self.leaves > step), torch.from_numpy(self.enters <= step)
        b_dec = (large if step >= self.b_dec_step else small).b_dec
        return join([(small, stay), (large, here)], b_dec.detach().clone())


@dataclass(frozen=True, eq=False)
class Trace:
    """The smaller SAE's way along a path, one number for each step from 0 on."""

    tokens: int
    mse: np.ndarray
    fvu: np.ndarray
    l0: np.ndarray
    n_latents: np.ndarray


def components(novel: np.ndarray, edges: Edges, n_small: int) -> list[Unit]:
    """Connected components of the similarity graph between latents that are not novel and those of the smaller SAE.

    The relation is many to many (a latent splits into several, several merge), hence groups are swapped as a whole. The
    most similar component comes first.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    large, small, cosine = (part.cpu().numpy() for part in (edges.large, edges.small, edges.cosine))
    kept = ~novel[large]
    large, small, cosine = large[kept], small[kept], cosine[kept]
    n = len(novel) + n_small
    graph = coo_array((np.ones(len(large)), (large, small + len(novel))), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    best = np.full(n, -np.inf)
    np.maximum.at(best, label[large], cosine)
    members: dict[int, tuple[list[int], list[int]]] = {}
    for node in np.union1d(large, small + len(novel)).tolist():
        added, removed = members.setdefault(int(label[node]), ([], []))
        (added if node < len(novel) else removed).append(node if node < len(novel) else node - len(novel))
    order = sorted(members, key=lambda at: (-best[at], members[at]))
    return [Unit("swap", tuple(members[at][0]), tuple(members[at][1])) for at in order]


def published_units(
    novel: np.ndarray, delta_mse: np.ndarray, edges: Edges, nearest: np.ndarray, n_small: int, b_dec: str = "small"
) -> list[Unit]:
    """The steps in the paper's order: all novel latents, then the swaps, then what is left, then b_dec.

    Inside a phase, for which the paper's order is not known: novel latents by ascending ΔMSE, components by descending
    cosine. What is left are latents of either SAE that no edge holds, which change places too, so that the path
    ends at the larger SAE: those of the larger whose nearest has left already enter, then each latent of the smaller
    leaves as those enter whose nearest it is. With b_dec "large" its step is the first.
    """
    swaps = components(novel, edges, n_small)
    inserted = [Unit("insert", (j,)) for j in np.argsort(delta_mse, kind="stable").tolist() if novel[j]]
    held = novel.copy()
    held[[j for unit in swaps for j in unit.added]] = True
    gone = np.zeros(n_small, dtype=bool)
    gone[[i for unit in swaps for i in unit.removed]] = True
    rest = [Unit("rest", (j,)) for j in np.flatnonzero(~held & gone[nearest]).tolist()]
    waiting: dict[int, list[int]] = {i: [] for i in np.flatnonzero(~gone).tolist()}
    for j in np.flatnonzero(~held & ~gone[nearest]).tolist():
        waiting[int(nearest[j])].append(j)
    rest += [Unit("rest", tuple(added), (i,)) for i, added in waiting.items()]
    units, bias = [*inserted, *swaps, *rest], Unit("b_dec")
    return [bias, *units] if b_dec == "large" else [*units, bias]


def path_of(units: Sequence[Unit], n_small: int, n_large: int) -> Path:
    """The path of units in this order.

    Raises:
        ValueError: a latent of the larger does not enter once, one of the smaller does not leave once, or b_dec is not
            replaced once: the path would not end at the larger SAE.
    """
    enters, leaves = np.full(n_large, NEVER), np.full(n_small, NEVER)
    for step, unit in enumerate(units, 1):
        enters[list(unit.added)] = step
        leaves[list(unit.removed)] = step
    counts = (
        sum(len(u.added) for u in units),
        sum(len(u.removed) for u in units),
        sum(u.phase == "b_dec" for u in units),
    )
    if counts != (n_large, n_small, 1) or NEVER in enters or NEVER in leaves:
        raise ValueError(
            f"units add {counts[0]} latents, remove {counts[1]} and replace b_dec {counts[2]} times; expected each of "
            f"{n_large} and {n_small} once, and b_dec once"
        )
    return Path(tuple(units), enters, leaves)


@torch.no_grad()
def trace_path(
    path: Path,
    small: JumpReLU,
    large: JumpReLU,
    batches: Iterable[Float[Tensor, "_ d_in"]],
    advance: Callable[[int], None] = lambda tokens: None,
) -> Trace:
    """MSE, FVU and L0 at every step of a path, exactly, in one pass over the tokens.

    At each step a token's residual changes only where latents that are active on it come or go. For token t with events
    e = 1, 2, … in the order of their steps, u_e = ±z_e w_e (or the change of b_dec), and r the smaller's residual,

        ‖r − Σ_{f≤e} u_f‖² − ‖r − Σ_{f<e} u_f‖² = ‖u_e‖² − 2 u_e·(r − Σ_{f<e} u_f)

    goes to the step of e. The work is that of a few reconstructions, whatever the number of steps. Latents' activity
    does not depend on which others are there, as all are active by thresholds.
    """
    steps = len(path.units) + 1
    n_small = small.config.n_latents
    rows = torch.cat([-small.W_dec, large.W_dec, (large.b_dec - small.b_dec)[None]])
    when = torch.from_numpy(np.concatenate([path.leaves, path.enters, [path.b_dec_step]])).to(rows.device)
    change = torch.zeros(steps, dtype=torch.float64)
    activity = torch.zeros(len(rows), dtype=torch.float64)
    fvu = FvuMeter()
    for x in batches:
        x = x.to(rows)
        before, after = small.eval().encode_sparse(x), large.eval().encode_sparse(x)
        x_hat = decode(before.value, before, small.W_dec, small.b_dec)
        fvu.update(x, x_hat)
        every = torch.arange(len(x), device=x.device)
        token = torch.cat([before.row, after.row, every])
        item = torch.cat([before.latent, after.latent + n_small, torch.full_like(every, len(rows) - 1)])
        value = torch.cat([before.value, after.value, x.new_ones(len(x))])
        activity += torch.bincount(item, minlength=len(rows)).cpu()
        _add_changes(change, x - x_hat, rows, when, token, item, value)
        advance(len(x))
    error = fvu.error + change.cumsum(0).numpy()
    error[0] = fvu.error
    variance = fvu.error / fvu.result()
    firings, sign = activity.numpy(), np.ones(len(rows))
    sign[:n_small], sign[-1] = -1, 0
    at = when.cpu().numpy()
    return Trace(
        tokens=fvu.tokens,
        mse=error / (fvu.tokens * small.config.d_in),
        fvu=error / variance,
        l0=(firings[:n_small].sum() + np.bincount(at, sign * firings, minlength=steps).cumsum()) / fvu.tokens,
        n_latents=(n_small + np.bincount(at, sign, minlength=steps).cumsum()).astype(np.int64),
    )


def _add_changes(
    change: Tensor, residual: Tensor, rows: Tensor, when: Tensor, token: Tensor, item: Tensor, value: Tensor
) -> None:
    """Add to `change` what every event does to the squared error; `residual` is used up.

    The e-th events of all tokens are taken together, tokens with most events first, so that those left are a prefix.
    """
    order = torch.argsort(token * (int(when.max()) + 1) + when[item])
    token, item, value = token[order], item[order], value[order]
    count = torch.bincount(token, minlength=len(residual))
    start = count.cumsum(0) - count
    tokens = torch.argsort(count, descending=True, stable=True)
    left, begin, count = residual[tokens], start[tokens], count[tokens]
    for rank in range(int(count[0])):
        active = int(torch.searchsorted(-count, -rank))  # tokens with more than `rank` events
        event = begin[:active] + rank
        here, move = left[:active], rows[item[event]] * value[event, None]
        here -= move
        # ‖u‖² − 2 u·r_before = −u·(2 r_after + u)
        grown = -torch.linalg.vecdot(move, here.mul(2).add_(move)).double().cpu()
        change += torch.bincount(when[item[event]].cpu(), grown, minlength=len(change))


def measured_steps(path: Path, points: int) -> list[int]:
    """Steps at which what costs a run of the model is measured: evenly spaced, and the ends of phases."""
    last = len(path.units)
    phases = ["start", *(unit.phase for unit in path.units)]
    even = np.linspace(0, last, points).round().astype(int).tolist()
    chosen = {0, last}
    for name in ("insert", "swap"):
        at = [step for step, phase in enumerate(phases) if phase == name]
        if at and at[-1] - at[0] + 1 == len(at):  # in greedy order swaps have no end of their own
            chosen.add(at[-1])
    while len(chosen) < min(points, last + 1):
        # The evenly spaced step that is farthest from those chosen.
        chosen.add(max(even if set(even) - chosen else range(last + 1), key=lambda s: min(abs(s - c) for c in chosen)))
    return sorted(chosen)
