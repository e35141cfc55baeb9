"""Columns of the tables that a meta-SAE run writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matryo.sae.compare.meta.splits import FamilyStudy
from matryo.sae.compare.meta.study import MetaStudy


def latent_columns(study: MetaStudy) -> dict[str, Any]:
    """One row per latent: how much of its decoder row is explained, by how many meta-latents, and where the rest is."""
    parts = study.decomposition
    return {
        "latent": list(range(parts.n_latents)),
        "meta_latents": parts.counts.tolist(),
        "explained": parts.explained.tolist(),
        "bias_share": parts.bias.tolist(),
        "residual_share": parts.residual.tolist(),
        "squared_error": parts.error.tolist(),
    }


def edge_columns(study: MetaStudy) -> dict[str, Any]:
    """One row per active pair of a latent and a meta-latent."""
    parts = study.decomposition
    names = {"latent": "latent", "meta_latent": "meta", "activation": "activation"}
    names |= {"contribution": "contribution", "cosine": "cosine"}
    return {column: getattr(parts, name).tolist() for column, name in names.items()}


def meta_columns(study: MetaStudy) -> dict[str, Any]:
    """One row per meta-latent: how many latents have it, and the nearest latents of each SAE it is compared with."""
    columns: dict[str, Any] = {"meta_latent": list(range(study.decomposition.n_meta))}
    columns["latents"] = study.decomposition.sizes.tolist()
    for name, (cosine, index) in study.nearest.items():
        ending = f" {name}" if name else ""
        columns[f"nearest_cosine{ending}"] = cosine.tolist()
        columns[f"nearest_latent{ending}"] = index.tolist()
    return columns


def split_columns(study: FamilyStudy) -> dict[str, Any]:
    """One row per latent that splits in the next larger SAE of its family."""
    names = ("smaller", "larger", "latent", "meta", "child_meta", "kept", "added")
    columns: dict[str, Any] = {name: [getattr(split, name) for split in study.splits] for name in names}
    columns["children"] = [list(split.children) for split in study.splits]
    return columns


def write_parquet(columns: dict[str, Any], path: Path) -> None:
    """Write columns of equal length as a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), path)
