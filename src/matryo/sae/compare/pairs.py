"""Pairs of SAEs of one site: matched, tested by insertion, and sorted into what is new and what is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matryo.sae.compare.config import PAPER_THRESHOLD, StitchConfig
from matryo.sae.compare.insertion import Insertion, measure_insertions
from matryo.sae.compare.match import Edges, Nearest, assign_rows, match_rows, similar_pairs
from matryo.sae.compare.roc import Roc, agreement, roc_of
from matryo.sae.compare.stitch import join, same_latents
from matryo.sae.evaluate.intervals import mean_interval
from matryo.sae.nn import JumpReLU

STATUSES = ("novel", "reconstruction", "shared", "silent")
"""novel: lowers the error; shared: the very latent is in both; silent: not active on these tokens, so that ΔMSE says
nothing; reconstruction: all others."""


@dataclass(frozen=True, eq=False)
class Compared:
    """What is known of a pair; latents of the larger first, where both are meant."""

    small: str
    large: str
    there: Nearest
    "For every latent of the larger, its nearest of the smaller."
    back: Nearest
    insertion: Insertion
    status: np.ndarray
    "Of every latent of the larger, one of STATUSES."
    roc: Roc
    "Of latents that are neither silent nor shared."
    threshold: float
    edges: Edges
    "Above the threshold."
    assigned: Edges | None

    @property
    def novel(self) -> np.ndarray:
        """Which latents of the larger are novel."""
        return self.status == "novel"

    def scores(self) -> dict[str, Any]:
        """The pair in numbers."""
        found, cosine = self.insertion, self.there.cosine.double().cpu().numpy()
        count = {name: int((self.status == name).sum()) for name in STATUSES}
        tested = np.isin(self.status, ("novel", "reconstruction")) & (found.firings.numpy() > 0)
        lower = found.delta_mse.numpy() < 0
        sure = found.delta_mse.abs() > 2 * found.standard_error
        n_large, active = len(self.status), len(self.status) - count["silent"]
        return {
            "small": self.small,
            "large": self.large,
            "n_small": len(self.back.latent),
            "n_large": n_large,
            "tokens": found.tokens,
            **count,
            "novel_share": count["novel"] / n_large,
            "novel_share_of_active": count["novel"] / active if active else float("nan"),
            "novel_beyond_2_se": int((lower & sure.numpy() & (self.status == "novel")).sum()),
            "novel_share_by_cosine": float((cosine <= self.threshold).mean()),
            "novel_share_by_paper_threshold": float((cosine <= PAPER_THRESHOLD).mean()),
            "threshold": self.threshold,
            "roc_auc": self.roc.auc,
            "roc_threshold": self.roc.threshold,
            "agreement": agreement(cosine[tested], lower[tested], self.threshold),
            "agreement_at_paper_threshold": agreement(cosine[tested], lower[tested], PAPER_THRESHOLD),
            "agreement_at_roc_threshold": agreement(cosine[tested], lower[tested], self.roc.threshold),
            "edges": len(self.edges.cosine),
            **{key: getattr(found, key) for key in ("mse_small", "mse_large", "fvu_small", "fvu_large")},
            "l0_small": found.l0_small,
            "l0_large": found.l0_large,
        }


@torch.no_grad()
def compare_pairs(
    saes: Mapping[str, JumpReLU],
    pairs: Sequence[tuple[str, str]],
    batches: Iterable[Tensor],
    config: StitchConfig,
    advance: Callable[[int], None] = lambda tokens: None,
) -> dict[tuple[str, str], Compared]:
    """Match, test and sort the latents of every (smaller, larger) pair, in one pass over the tokens.

    Raises:
        ValueError: no cosine is above the threshold, so that there is nothing to swap; or there are no tokens.
    """
    near = {}
    for small, large in pairs:
        near[small, large] = match_rows(saes[large].W_dec, saes[small].W_dec)
        if config.threshold != "roc":
            _check_edges(small, large, near[small, large][0], config.threshold)
    inserted = measure_insertions(saes, pairs, batches, config.b_dec, advance)
    return {pair: _sorted(saes, pair, near[pair], inserted[pair], config) for pair in pairs}


def _sorted(
    saes: Mapping[str, JumpReLU],
    pair: tuple[str, str],
    near: tuple[Nearest, Nearest],
    insertion: Insertion,
    config: StitchConfig,
) -> Compared:
    small, large = saes[pair[0]], saes[pair[1]]
    there, back = near
    shared = same_latents(large, small, there.latent).cpu().numpy()
    silent = insertion.firings.numpy() == 0
    lower, cosine = insertion.delta_mse.numpy() < 0, there.cosine.double().cpu().numpy()
    tested = ~shared & ~silent
    roc = roc_of(cosine[tested], lower[tested])
    threshold = config.threshold
    if threshold == "roc":
        if not roc.curve:
            raise ValueError(
                f"latents of {pair[1]} are all of one sort beside {pair[0]}, so that no threshold follows from ΔMSE; "
                "expected "
                f"a number: --threshold {PAPER_THRESHOLD}"
            )
        threshold = roc.threshold
        _check_edges(*pair, there, threshold)
    status = np.full(len(cosine), "reconstruction", dtype=object)
    if config.by == "mse":
        status[lower] = "novel"
        status[silent] = "silent"
    else:
        status[cosine <= threshold] = "novel"
    status[shared] = "shared"
    edges = similar_pairs(large.W_dec, small.W_dec, threshold)
    assigned = assign_rows(large.W_dec, small.W_dec) if config.assignment else None
    return Compared(*pair, there, back, insertion, status.astype(str), roc, threshold, edges, assigned)


def _check_edges(small: str, large: str, there: Nearest, threshold: float) -> None:
    most = float(there.cosine.max())
    if most <= threshold:
        raise ValueError(
            f"the similarity graph of {small} and {large} is empty: their largest decoder cosine is {most:.3f}; "
            "expected one "
            f"above {threshold:.3f}: lower --threshold, or compare SAEs of one site"
        )


@torch.no_grad()
def merge_novel(
    saes: Mapping[str, JumpReLU],
    batches: Callable[[], Iterable[Tensor]],
    advance: Callable[[int], None] = lambda tokens: None,
) -> tuple[JumpReLU, dict[str, int]]:
    """Put all latents of one SAE together with those of each next one that are novel beside what there is by then.

    Returns it and how many latents each SAE gave. b_dec stays the first's. Reference: the SAEs put together from many
    sizes in Leask et al.'s post "Stitching SAEs of different sizes" (2024).
    """
    (first, merged), *others = saes.items()
    given = {first: merged.config.n_latents}
    for name, sae in others:
        found = measure_insertions({"merged": merged, name: sae}, [("merged", name)], batches(), advance=advance)
        novel = found["merged", name].delta_mse < 0
        given[name] = int(novel.sum())
        everything = torch.ones(merged.config.n_latents, dtype=torch.bool)
        merged = join([(merged, everything), (sae, novel)], merged.b_dec.detach().clone())
    return merged, given


def by_sizes(scores: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What pairs of the same two sizes have in common, over their seeds: mean, least and largest of some scores.

    With two pairs or more also Student's 95 % interval of the mean, `…_low` to `…_high`. Controls of neighbouring
    seeds share SAEs, so theirs is narrower than it should be.
    """
    groups: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for one in scores:
        groups.setdefault((one["n_small"], one["n_large"]), []).append(one)
    found = []
    for (n_small, n_large), group in sorted(groups.items()):
        row: dict[str, Any] = {"n_small": n_small, "n_large": n_large, "pairs": len(group)}
        for key in OVER_SEEDS:
            values = [one[key] for one in group if one.get(key) is not None]
            if values:
                mean = mean_interval(values)
                row |= {key: mean.mean, f"{key}_least": min(values), f"{key}_largest": max(values)}
                row |= {f"{key}_low": mean.low, f"{key}_high": mean.high} if len(values) > 1 else {}
        found.append(row)
    return found


OVER_SEEDS = (
    "novel_share",
    "novel_share_of_active",
    "novel_share_by_paper_threshold",
    "roc_auc",
    "roc_threshold",
    "fvu_small",
    "fvu_large",
    "insertion_mse_change",
)
