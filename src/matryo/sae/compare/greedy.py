"""The order in which each step lowers the error most for what it changes, from the Gram matrix of what steps do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matryo.sae.compare.insertion import dots_at
from matryo.sae.compare.path import Unit
from matryo.sae.kernels import Entries
from matryo.sae.nn import JumpReLU

MOST_BYTES = 4 * 2**30
"""Memory for co-activations, 12 bytes for every two latents that are ever active together."""


def greedy_units(
    units: Sequence[Unit],
    small: JumpReLU,
    large: JumpReLU,
    batches: Iterable[Float[Tensor, "_ d_in"]],
    b_dec: str = "small",
    advance: Callable[[int], None] = lambda tokens: None,
) -> list[Unit]:
    """Units in greedy order: the insertions, then swaps and the rest mixed; b_dec where it is.

    Unit k changes the residual of token t by u_k(t) = Σ_{j enters} z_tj w_j − Σ_{i leaves} z_ti w_i. With r the
    smaller's residual, g_k = Σ_t u_k·r and G_kl = Σ_t u_k·u_l, doing k changes the squared error by

        Δ_k = G_kk − 2 g_k,     and then     g_l ← g_l − G_kl for all l.

    The k of the least Δ_k / G_kk = 1 − 2 g_k / G_kk is done, and so on: the one that lowers the error most for what it
    changes. Of the error when the units of a set S are done,

        E(S) = E(∅) + Σ_{k∈S} (Δ_k + Σ_{l≠k} G_kl) − Σ_{k∈S, l∉S} G_kl,

    only the last sum depends on what is still to be done. It is negative where units that write the same, one leaving
    and one entering, are torn apart: that is why the error rises inside a path, and an order can only keep such units
    close together. The least Δ_k itself does so less well, and so does a rest kept for the end (docs/log.md). G is
    summed from products of activations, C_ab = Σ_t z_ta z_tb, as C_ab (w_a·w_b): one pass over the tokens and no
    reconstruction per step.

    Raises:
        ValueError: the co-activations could need more memory than there should be.
    """
    n_small, n = small.config.n_latents, small.config.n_latents + large.config.n_latents
    rows = torch.cat([-small.W_dec, large.W_dec]).detach()
    gram, along = _gram(small, large, rows, batches, b_dec, advance)
    phases = [[u for u in units if u.phase == "insert"], [u for u in units if u.phase in ("swap", "rest")]]
    chosen = [unit for phase in phases for unit in phase]
    member = _membership(chosen, n_small, n)
    gram, along = (member.T @ gram @ member).tocsc(), member.T @ along
    own, order, first = gram.diagonal(), [], 0
    size = np.where(own > 0, own, 1.0)  # a unit of silent latents changes nothing
    for phase in phases:
        left = np.zeros(len(chosen), dtype=bool)
        left[first : first + len(phase)] = True
        first += len(phase)
        for _ in phase:
            at = int(np.where(left, (own - 2 * along) / size, np.inf).argmin())
            left[at] = False
            order.append(chosen[at])
            column = slice(gram.indptr[at], gram.indptr[at + 1])
            along[gram.indices[column]] -= gram.data[column]
    bias = [unit for unit in units if unit.phase == "b_dec"]
    return [*bias, *order] if b_dec == "large" else [*order, *bias]


def _gram(
    small: JumpReLU,
    large: JumpReLU,
    rows: Tensor,
    batches: Iterable[Tensor],
    b_dec: str,
    advance: Callable[[int], None],
):
    """(G, g) of single latents, the smaller's with the sign of leaving."""
    from scipy.sparse import csr_array, vstack

    n_small, parts, along = small.config.n_latents, [], np.zeros(len(rows))
    most = 0
    for x in batches:
        x = x.to(rows)
        before, after = small.eval().encode_sparse(x), large.eval().encode_sparse(x)
        residual = x - small.decode_sparse(before)
        if b_dec == "large":
            residual = residual + (small.b_dec - large.b_dec)
        both = _beside(before, after)
        dots = dots_at(residual, both, rows)
        along += np.bincount(both.latent.cpu(), (both.value * dots).double().cpu(), minlength=len(rows))
        most += int(both.row_start.diff().square().sum())
        if 12 * min(most, len(rows) ** 2) > MOST_BYTES:
            raise ValueError(
                f"the greedy order of {len(rows):,} latents could need {12 * most / 2**30:.0f} GiB of co-activations; "
                "expected "
                f"at most {MOST_BYTES / 2**30:.0f}: --order published, or fewer --tokens"
            )
        indptr, index, value = (part.cpu().numpy() for part in (both.row_start, both.latent, both.value.double()))
        parts.append(csr_array((value, index.astype(np.int32), indptr.astype(np.int32)), shape=(len(x), len(rows))))
        advance(len(x))
    active = vstack(parts, format="csr")
    together = (active.T @ active).tocsr()
    del active, parts
    _scale_by_rows(together, rows)
    assert n_small < len(rows)
    return together, along


def _beside(before: Entries, after: Entries) -> Entries:
    """The entries of both SAEs, the larger's latents numbered after the smaller's."""
    n_small = before.n_latents
    row, latent = torch.cat([before.row, after.row]), torch.cat([before.latent, after.latent + n_small])
    value = torch.cat([before.value, after.value])
    return Entries.from_pairs(row, latent, value, before.n_rows, n_small + after.n_latents)


def _scale_by_rows(together, rows: Tensor, block: int = 1024) -> None:
    """C_ab → C_ab (w_a·w_b) in place, some rows at a time."""
    for start in range(0, len(rows), block):
        stop = min(start + block, len(rows))
        products = (rows[start:stop] @ rows.t()).double().cpu().numpy()
        here = slice(together.indptr[start], together.indptr[stop])
        at = np.repeat(np.arange(stop - start), np.diff(together.indptr[start : stop + 1]))
        together.data[here] *= products[at, together.indices[here]]


def _membership(units: Sequence[Unit], n_small: int, n: int):
    """(latents, units): 1 where a latent is of a unit."""
    from scipy.sparse import csr_array

    latent = [i for u in units for i in u.removed] + [n_small + j for u in units for j in u.added]
    unit = [k for k, u in enumerate(units) for _ in u.removed] + [k for k, u in enumerate(units) for _ in u.added]
    return csr_array((np.ones(len(latent)), (latent, unit)), shape=(n, len(units)))
