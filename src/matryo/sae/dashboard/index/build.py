"""Making an index: one pass that encodes every token once with every SAE, then everything that follows from it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matryo.sae.dashboard.index import arrays
from matryo.sae.dashboard.index.corpus import write_corpus
from matryo.sae.dashboard.index.directions import encoder_cosine, nearest, plane, read_logits, unit_rows
from matryo.sae.dashboard.index.invert import invert
from matryo.sae.dashboard.index.levels import CONTAINMENT, COSINE, choose_parents, level_of
from matryo.sae.dashboard.index.record import Recorder
from matryo.sae.dashboard.index.statistics import tabulate
from matryo.sae.dashboard.index.tree import find_edges
from matryo.spine.config import write_text
from matryo.spine.progress import progress

if TYPE_CHECKING:
    from matryo.sae.nn import SAE
    from matryo.sae.text import TokenRows

SCHEMA = 1
"""Raised whenever an older index could no longer be read."""

ALL_PAIRS_FLOP = 1e12
"""Largest product of all pairs of decoder rows that is computed: some ten seconds on two cores."""

LOGITS_FLOP = 2e12
"""Largest product of all decoder rows with the unembedding that is computed; above, logits are read on demand."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One SAE to be indexed, and where it is from."""

    sae: SAE
    site: str
    folder: str
    "Of the SAE, relative to the index's run."
    weights_sha256: str
    run: str
    "Name of the run it is of."
    role: str = "sae"
    "sae, or stitched."


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """How token ids are shown, and what they are in bytes."""

    pieces: Sequence[str]
    raw: Sequence[bytes]


def build_index(
    folder: Path,
    members: Mapping[str, Member],
    rows: TokenRows,
    vocabulary: Vocabulary,
    activations: Callable[[int], Iterable[tuple[int, dict[str, Tensor]]]],
    about: dict[str, Any],
    unembed: Tensor | None = None,
) -> None:
    """Write an index, or go on with one.

    Args:
        folder: of the index; `manifest.json`, written last, makes it one.
        members: the SAEs by name.
        rows: the text.
        vocabulary: pieces and bytes of all token ids.
        activations: from a number of tokens already done to (number of the first token, {site: (tokens, d)}) in token
            order; earlier tokens may come again and are passed over.
        about: what the manifest says of the model and the text.
        unembed: (d, vocabulary) of the model; None when SAEs write to another place than its residual stream.

    Raises:
        ValueError: the activations end before the text does.
    """
    if (folder / "manifest.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    _record(folder, members, rows, activations)
    write_corpus(folder / "text", rows, vocabulary.pieces, vocabulary.raw)
    token_ids = np.ascontiguousarray(rows.tokens[:, 1:]).ravel()
    began, told = time.monotonic(), {}
    with progress("index", sum(len(m.sae.W_dec) for m in members.values()), "latents") as bar:
        for name, member in members.items():
            told[name] = _finalise(folder / "saes" / name, member, token_ids, unembed)
            bar.advance(len(member.sae.W_dec))
        for name in members:
            told[name]["matches"] = _match(folder / "saes", name, list(members))
    manifest = {"schema": SCHEMA, "matryo": version("matryo"), "made": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    manifest |= {"about": about, "text": rows.digest(), "finalise_s": round(time.monotonic() - began, 3), "saes": told}
    manifest["files"] = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(_kept(folder))}
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1))
    (folder / "recorded.json").unlink(missing_ok=True)


def _kept(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*") if p.suffix in (".bin", ".npy", ".parquet"))


@torch.no_grad()
def _record(folder: Path, members: Mapping[str, Member], rows: TokenRows, activations: Callable[[int], Any]) -> None:
    """Encode every token once, with every SAE."""
    with Recorder(folder, members) as recorder, progress("encode", rows.n_tokens, "tokens") as bar:
        bar.advance(recorder.tokens)
        if recorder.tokens < rows.n_tokens:
            for first, found in activations(recorder.tokens):
                skip, stop = recorder.tokens - first, rows.n_tokens - first
                parts = {site: x[max(0, skip) : stop] for site, x in found.items()}
                if skip < 0:
                    raise ValueError(f"activations go on at token {first}; expected {recorder.tokens}")
                if not (count := len(next(iter(parts.values())))):
                    continue
                recorder.append(
                    {n: m.sae.eval().encode_sparse(parts[m.site].to(m.sae.W_dec)) for n, m in members.items()}
                )
                bar.advance(count)
                if recorder.tokens >= rows.n_tokens:
                    break
        if recorder.tokens != rows.n_tokens:
            raise ValueError(
                f"there are activations of {recorder.tokens:,} tokens, the text has {rows.n_tokens:,}; "
                "expected as many: harvest again, or index without the store"
            )


@torch.no_grad()
def _finalise(folder: Path, member: Member, token_ids: NDArray, unembed: Tensor | None) -> dict[str, Any]:
    """Everything of one SAE that follows from its recording and its weights."""
    sae = member.sae
    n, lengths = len(sae.W_dec), sae.config.lengths
    counted = invert(folder, n, token_ids)
    arrays.save(folder / "histogram.npy", counted.histogram)
    units, norms = unit_rows(sae.W_dec.cpu())
    arrays.save(folder / "units.npy", units)
    columns: dict[str, Any] = {"norm": norms, "enc_dec": encoder_cosine(sae.W_enc.cpu(), sae.W_dec.cpu())}
    columns["level"] = level_of(n, lengths)
    if 2.0 * n * n * units.shape[1] <= ALL_PAIRS_FLOP:
        columns["twin"], columns["twin_cosine"] = nearest(units, units, same=True)
    columns["x"], columns["y"] = plane(units).T
    if len(lengths) > 1:
        edges = find_edges(folder, lengths, units)
        arrays.save(folder / "edges.npy", edges)
        columns |= _parents(edges, n)
    table = tabulate(counted, len(token_ids), **columns)
    arrays.save(folder / "stats.npy", table)
    has_logits = False
    if unembed is not None and unembed.shape[0] == sae.W_dec.shape[1] and 2.0 * n * unembed.numel() <= LOGITS_FLOP:
        logits = read_logits(sae.W_dec.cpu(), unembed)
        has_logits = True
        for field in dataclasses.fields(logits):
            arrays.save(folder / f"logits_{field.name}.npy", getattr(logits, field.name))
    _write_parquet(folder / "latents.parquet", table)
    entries = int(counted.firings.sum())
    return {
        **{key: getattr(member, key) for key in ("site", "folder", "weights_sha256", "run", "role")},
        "config": dataclasses.asdict(sae.config),
        "lengths": list(lengths),
        "n_latents": n,
        "d_in": sae.config.d_in,
        "entries": entries,
        "l0": entries / max(1, len(token_ids)),
        "dead": int((counted.firings == 0).sum()),
        "logits": has_logits,
        "parent_at": [CONTAINMENT, COSINE],
    }


def _parents(edges: NDArray[Any], n: int) -> dict[str, NDArray[Any]]:
    parent = choose_parents(edges, n)
    chosen = edges[parent[edges["child"]] == edges["parent"]]
    columns: dict[str, NDArray[Any]] = {"parent": parent}
    for name in ("containment", "cosine"):
        columns[f"parent_{name}"] = np.full(n, np.nan, np.float32)
        columns[f"parent_{name}"][chosen["child"]] = chosen[name]
    return columns


def _match(folder: Path, name: str, names: list[str]) -> list[str]:
    """Write the most similar decoder row in every other SAE; the names of those for which it was computed."""
    mine, found = arrays.load(folder / name / "units.npy"), []
    for other in names:
        theirs = arrays.load(folder / other / "units.npy")
        if other == name or theirs.shape[1] != mine.shape[1] or 2.0 * theirs.size * len(mine) > ALL_PAIRS_FLOP:
            continue
        best, cosine = nearest(mine, theirs, same=False)
        pairs = np.zeros(len(mine), [("latent", "<i4"), ("cosine", "<f4")])
        pairs["latent"], pairs["cosine"] = best, cosine
        arrays.save(folder / name / f"match-{names.index(other)}.npy", pairs)
        found.append(other)
    return found


def _write_parquet(path: Path, table: NDArray[Any]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    names = table.dtype.names or ()
    partial = path.with_suffix(".partial")
    parquet.write_table(pa.table({name: np.ascontiguousarray(table[name]) for name in names}), partial)
    partial.replace(path)
