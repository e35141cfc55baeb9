"""Tables of stitching and meta-SAE runs beside the index, found by what their `run.json` says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.sae.dashboard.index.opened import Index, IndexedSAE
from matryo.sae.dashboard.views.runs import list_runs

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Tables:
    """A finished run's tables, and the names of the runs it was made from."""

    files: dict[str, Path]
    parents: frozenset[str]

    def known(self, index: Index, name: str) -> IndexedSAE | None:
        """The SAE of an index that the tables call by a name; None where it is not of one of the parents.

        `NAME@LEVEL` is a prefix of NAME, whose latents have the same numbers; a name that several parents use has its
        run's before it.
        """
        whole, at, level = name.rpartition("@")
        base = whole if at and level.isdigit() else name
        for sae in index.saes.values():
            own, run = Path(sae.told["folder"]).name, sae.told["run"]
            if run in self.parents and {name, base} & {own, f"{run}-{own}"}:
                return sae
        return None


def _finished(folder: Path | None) -> Iterator[tuple[str, Path, dict[str, Any], frozenset[str]]]:
    """Name, folder, outputs and parents of the finished runs, the newest first."""
    for name, path in list_runs(folder).items():
        try:
            told = json.loads((path / "run.json").read_text(encoding="utf-8"))
            yield name, path, dict(told["outputs"]), frozenset(Path(one["path"]).name for one in told["parents"])
        except (OSError, ValueError, KeyError, TypeError):
            continue


def meta_runs(folder: Path | None, sae: IndexedSAE) -> dict[str, Tables]:
    """Runs of `sae meta` on these very weights: by name, their tables, and the folder of the meta-SAE."""
    keys, found = ("latents", "edges", "meta_latents", "meta_sae"), {}
    for name, path, outputs, parents in _finished(folder):
        tables = outputs.get("meta", {})
        for mine in tables.values() if isinstance(tables, dict) else ():
            if isinstance(mine, dict) and all(key in mine for key in keys) and _is_of(path / mine["meta_sae"], sae):
                found[name] = Tables({key: path / mine[key] for key in keys}, parents)
                break
    return found


def _is_of(folder: Path, sae: IndexedSAE) -> bool:
    """Whether a meta-SAE was trained on the decoder rows of this SAE."""
    try:
        told = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
        return told["metadata"]["base_weights_sha256"] == sae.told["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def stitch_runs(folder: Path | None, index: Index) -> dict[str, Tables]:
    """Runs of `sae stitch` and `sae family` with an SAE of the index: by name, their tables."""
    keys, indexed = ("latents", "pairs", "edges", "steps"), {sae.told["run"] for sae in index.saes.values()}
    found = {}
    for name, path, outputs, parents in _finished(folder):
        if parents & indexed and all(str(outputs.get(key, "")).endswith(".parquet") for key in keys):
            found[name] = Tables({key: path / outputs[key] for key in keys}, parents)
    return found


def columns_beside(sae: IndexedSAE, folder: Path | None) -> Columns:
    """Columns that the newest runs beside the index give the table of an SAE's latents, nan where they say nothing.

    `explained` is the share of the decoder row that a meta-SAE explains; `delta_mse` is the change of a smaller SAE's
    error when the latent is inserted, of the last pair whose larger SAE it is: novel below 0.
    """
    found: Columns = {}
    for run in meta_runs(folder, sae).values():
        found["explained"] = read_table(run.files["latents"])["explained"]
        break
    for run in stitch_runs(folder, sae.index).values():
        table = read_table(run.files["latents"])
        large = {name: run.known(sae.index, name) for name in dict.fromkeys(table["large"].tolist())}
        mine = [name for name, known in large.items() if known is sae]
        if mine:
            part = chosen(table, (table["large"] == mine[-1]) & (table["side"] == "large"))
            part = chosen(part, part["small"] == part["small"][-1])
            found["delta_mse"] = np.full(sae.n_latents, np.nan)
            found["delta_mse"][part["latent"]] = part["delta_mse"]
            break
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
