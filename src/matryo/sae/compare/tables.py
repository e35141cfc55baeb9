"""What was found of pairs and paths, as Parquet tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matryo.sae.compare.pairs import Compared
from matryo.sae.compare.path import Path, Trace


def write_table(table: pa.Table, path: File) -> None:
    """Write a table, whole or not at all."""
    beside = path.with_name(f".{path.name}.partial")
    pq.write_table(table, beside, compression="zstd")
    beside.replace(path)


def latents_table(compared: Sequence[Compared]) -> pa.Table:
    """One row for each latent of either SAE of each pair; ΔMSE and status stand beside the larger's only."""
    return _joined([part for one in compared for part in (_large_latents(one), _small_latents(one))])


def edges_table(compared: Sequence[Compared], paths: dict[tuple[str, str], Path]) -> pa.Table:
    """One row for each pair of similar latents; `swap_step` is the step at which both change places, where they do."""
    parts = []
    for one in compared:
        large, small, cosine = (part.cpu().numpy() for part in (one.edges.large, one.edges.small, one.edges.cosine))
        path = paths.get((one.small, one.large))
        step = np.full(len(large), -1)
        if path is not None:
            together = path.enters[large] == path.leaves[small]
            step = np.where(together, path.enters[large], -1)
        columns = {"large_latent": large, "small_latent": small, "cosine": cosine.astype(np.float32)}
        columns["swap_step"] = pa.array(step, mask=step < 0)
        parts.append(_named(one, columns))
    return _joined(parts)


def pairs_table(compared: Sequence[Compared], more: dict[tuple[str, str], dict[str, Any]]) -> pa.Table:
    """One row for each pair of SAEs: its scores, and what its path says."""
    return pa.Table.from_pylist([one.scores() | more.get((one.small, one.large), {}) for one in compared])


def steps_table(
    pair: tuple[str, str], order: str, path: Path, trace: Trace, ce: dict[int, tuple[float, float]]
) -> pa.Table:
    """One row for each step of a path; cross-entropies (nats/token) where they were measured."""
    n = len(trace.mse)
    measured = np.isin(np.arange(n), list(ce))
    spliced, recovered = (
        pa.array(np.array([ce[s][at] if s in ce else 0.0 for s in range(n)]), mask=~measured) for at in (0, 1)
    )
    return pa.table(
        {
            "small": [pair[0]] * n,
            "large": [pair[1]] * n,
            "order": [order] * n,
            "step": np.arange(n),
            "phase": ["start", *(unit.phase for unit in path.units)],
            "added": [0, *(len(unit.added) for unit in path.units)],
            "removed": [0, *(len(unit.removed) for unit in path.units)],
            "n_latents": trace.n_latents,
            "mse": trace.mse,
            "fvu": trace.fvu,
            "l0": trace.l0,
            "ce_spliced": spliced,
            "ce_recovered": recovered,
        }
    )


def _large_latents(one: Compared) -> pa.Table:
    found = one.insertion
    columns: dict[str, Any] = {
        "side": ["large"] * len(one.status),
        "latent": np.arange(len(one.status)),
        "nearest": one.there.latent.cpu().numpy(),
        "max_cosine": one.there.cosine.float().cpu().numpy(),
        "density": found.firings.numpy() / found.tokens,
        "status": one.status.tolist(),
        "delta_mse": found.delta_mse.numpy(),
        "delta_mse_se": found.standard_error.numpy(),
    }
    if one.assigned is not None:
        columns |= _assigned(len(one.status), one.assigned.large, one.assigned.small, one.assigned.cosine)
    return _named(one, columns)


def _small_latents(one: Compared) -> pa.Table:
    n = len(one.back.latent)
    columns: dict[str, Any] = {
        "side": ["small"] * n,
        "latent": np.arange(n),
        "nearest": one.back.latent.cpu().numpy(),
        "max_cosine": one.back.cosine.float().cpu().numpy(),
        "density": one.insertion.firings_small.numpy() / one.insertion.tokens,
        "status": pa.nulls(n, pa.string()),
        "delta_mse": pa.nulls(n, pa.float64()),
        "delta_mse_se": pa.nulls(n, pa.float64()),
    }
    if one.assigned is not None:
        columns |= _assigned(n, one.assigned.small, one.assigned.large, one.assigned.cosine)
    return _named(one, columns)


def _assigned(n: int, mine: Any, other: Any, cosine: Any) -> dict[str, Any]:
    """The other latent of an assignment and its cosine, for those that have one."""
    latent, value = np.full(n, -1), np.zeros(n, dtype=np.float32)
    latent[mine.cpu().numpy()] = other.cpu().numpy()
    value[mine.cpu().numpy()] = cosine.float().cpu().numpy()
    return {"assigned": pa.array(latent, mask=latent < 0), "assigned_cosine": pa.array(value, mask=latent < 0)}


def _named(one: Compared, columns: dict[str, Any]) -> pa.Table:
    n = len(next(iter(columns.values())))
    return pa.table({"small": [one.small] * n, "large": [one.large] * n, **columns})


def _joined(parts: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(parts)


def phase_scores(steps: pa.Table) -> dict[tuple[str, str], dict[str, float]]:
    """For each pair, where its paths stand when a phase is over, and how far the error rises on the way.

    inserted: all novel latents are in; swapped: the components have changed places, which only the published order
    has. `insertion_mse_change` is MSE_inserted / MSE_small − 1. By order, `…_fvu_highest` is the largest FVU of the
    path, `…_steps_up` the share of its steps that raised MSE.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    columns = {
        name: np.array(steps[name].to_pylist()) for name in ("small", "large", "order", "phase", "mse", "fvu", "l0")
    }
    for small, large, order in dict.fromkeys(zip(columns["small"], columns["large"], columns["order"], strict=True)):
        mine = (columns["small"] == small) & (columns["large"] == large) & (columns["order"] == order)
        one = {name: values[mine] for name, values in columns.items()}
        scores = found.setdefault((str(small), str(large)), {})
        scores[f"{order}_steps_up"] = float((np.diff(one["mse"]) > 0).mean())
        scores[f"{order}_fvu_highest"] = float(one["fvu"].max())
        last, ends = 0, (("insert", "inserted"), ("swap", "swapped"))
        for phase, name in ends if order == "published" else ends[:1]:
            last = max(last, int(np.flatnonzero(one["phase"] == phase).max(initial=0)))
            scores |= {f"fvu_{name}": float(one["fvu"][last]), f"l0_{name}": float(one["l0"][last])}
            if phase == "insert":
                scores["insertion_mse_change"] = float(one["mse"][last] / one["mse"][0] - 1)
    return found
