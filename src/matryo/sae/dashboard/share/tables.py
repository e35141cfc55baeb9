"""The table of latents as CSV or Parquet."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.sae.dashboard.index.opened import IndexedSAE
from matryo.sae.dashboard.index.statistics import COLUMNS
from matryo.sae.dashboard.views.table import NO_COLUMNS, Beside, Labels
from matryo.spine.errors import unknown

MEDIA = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}


def table_bytes(
    sae: IndexedSAE, order: NDArray[np.int64], kind: str, labels: Labels, beside: Beside = NO_COLUMNS
) -> tuple[bytes, str]:
    """Some latents in order, all columns, nearest latents of other SAEs and labels, as bytes and their media type.

    Texts that a spreadsheet would take for a formula begin with an apostrophe in CSV.
    """
    if kind not in MEDIA:
        raise unknown("kind of table", kind[:20], MEDIA)
    table, corpus = sae.stats[order], sae.index.corpus
    ids, which = np.unique(table["top_token"], return_inverse=True)
    pieces = np.array([corpus.piece(int(i)) if i >= 0 else "" for i in ids], object)[which]
    texts: dict[str, list[str]] = {
        "top_piece": pieces.tolist(),
        "label": [str(labels.get(int(i), {}).get("label", "")) for i in order],
        "tags": [", ".join(labels.get(int(i), {}).get("tags", [])) for i in order],
    }
    columns: dict[str, Any] = {name: np.ascontiguousarray(table[name]) for name in COLUMNS}
    columns |= {name: values[order] for name, values in beside.items()}
    for other in sae.told["matches"]:
        if (pairs := sae.match(other)) is not None:
            columns |= {f"match {other}": pairs["latent"][order], f"match_cosine {other}": pairs["cosine"][order]}
    if kind == "csv":
        return _csv(columns, texts).encode(), MEDIA[kind]
    import pyarrow as pa
    from pyarrow import parquet

    out = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns | texts), out)
    return out.getvalue().to_pybytes(), MEDIA[kind]


def _csv(numbers: dict[str, NDArray[Any]], texts: dict[str, list[str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([*numbers, *texts])
    columns = [np.asarray(values).tolist() for values in numbers.values()]
    safe = [
        [f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text for text in column]
        for column in texts.values()
    ]
    writer.writerows(zip(*columns, *safe, strict=True))
    return out.getvalue()
