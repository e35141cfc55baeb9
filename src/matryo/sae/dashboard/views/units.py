"""Tables of stitching and meta-SAE runs beside the index, found by what their `run.json` says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.sae.dashboard.index.opened import Index, IndexedSAE
from matryo.sae.dashboard.views.runs import list_runs

Columns = dict[str, NDArray[Any]]


def _finished(folder: Path | None) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Name, folder and outputs of the finished runs, the newest first."""
    for name, path in list_runs(folder).items():
        try:
            told = json.loads((path / "run.json").read_text(encoding="utf-8"))
            yield name, path, dict(told["outputs"])
        except (OSError, ValueError, KeyError, TypeError):
            continue


def meta_runs(folder: Path | None, sae: IndexedSAE) -> dict[str, dict[str, Path]]:
    """Runs of `sae meta` on these very weights: by name, their tables, and the folder of the meta-SAE."""
    found = {}
    for name, path, outputs in _finished(folder):
        tables = outputs.get("meta", {})
        mine = tables.get(sae.name) if isinstance(tables, dict) else None
        if not isinstance(mine, dict) or not _is_of(path / str(mine.get("meta_sae", "")), sae):
            continue
        keys = ("latents", "edges", "meta_latents", "meta_sae")
        if all(key in mine for key in keys):
            found[name] = {key: path / mine[key] for key in keys}
    return found


def _is_of(folder: Path, sae: IndexedSAE) -> bool:
    """Whether a meta-SAE was trained on the decoder rows of this SAE."""
    try:
        told = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
        return told["metadata"]["base_weights_sha256"] == sae.told["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def stitch_runs(folder: Path | None, index: Index) -> dict[str, dict[str, Path]]:
    """Runs of `sae stitch` and `sae family`: by name, their tables."""
    keys = ("latents", "pairs", "edges", "steps")
    found = {}
    for name, path, outputs in _finished(folder):
        if all(str(outputs.get(key, "")).endswith(".parquet") for key in keys):
            found[name] = {key: path / outputs[key] for key in keys}
    return found


def read_table(path: Path) -> Columns:
    """The columns of a Parquet file, missing numbers as nan, missing texts as empty.

    Raises:
        ValueError: the file is gone or damaged.
    """
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise ValueError(f"{path.parent.name}/{path.name} is gone: was its run deleted?") from error


@lru_cache(maxsize=32)
def _read(path: Path, changed: int) -> Columns:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path.name} is not a Parquet table ({error})") from error
    columns: Columns = {}
    for name in table.column_names:
        values = table[name].to_pylist()
        if pa.types.is_floating(table[name].type):
            columns[name] = np.array([np.nan if v is None else v for v in values], np.float64)
        elif pa.types.is_integer(table[name].type):
            columns[name] = np.array([-1 if v is None else v for v in values], np.int64)
        else:
            columns[name] = np.array(["" if v is None else v for v in values], object)
    return columns


def chosen(table: Columns, keep: NDArray[np.bool_]) -> Columns:
    """Some rows of a table."""
    return {name: values[keep] for name, values in table.items()}
