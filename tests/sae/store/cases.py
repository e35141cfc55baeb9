"""Stores small enough to check by brute force: all sizes differ, several shards in every split."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from matryo.sae.store import ActivationStore, StoreConfig, StoreWriter

TRAIN, HELDOUT, D_IN = 1237, 311, 5
FIRST = 10_000
LAYOUT = StoreConfig(dtype="float32", shard_rows=97, calibration_tokens=101, seed=3)


def tokens_of(split: str, count: int | None = None, d_in: int = D_IN) -> Tensor:
    """Activations whose column 0 is FIRST and the token's number: exact in float32, different for every token."""
    count = count or {"train": TRAIN, "heldout": HELDOUT}[split]
    generator = torch.Generator().manual_seed(len(split))
    values = torch.randn(count, d_in, generator=generator)
    values[:, 0] = torch.arange(count) + {"train": FIRST, "heldout": 2 * FIRST}[split]
    return values


def write_store(
    folder: Path,
    config: StoreConfig = LAYOUT,
    *,
    train: Tensor | None = None,
    heldout: Tensor | None = None,
    chunk: int = 111,
    about: dict | None = None,
) -> ActivationStore:
    train = tokens_of("train") if train is None else train
    heldout = tokens_of("heldout") if heldout is None else heldout
    writer = StoreWriter(folder, {"train": len(train), "heldout": len(heldout)}, train.shape[1], config)
    for split, values in (("train", train), ("heldout", heldout)):
        for start in range(0, len(values), chunk):
            writer.write(split, start, values[start : start + chunk])
    writer.finish(about or {"lm": "none"})
    return ActivationStore(folder)


def stored(store: ActivationStore, split: str) -> Tensor:
    """All rows of a split in slot order, outliers included, read without the store's own readers."""
    kind = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}[store.manifest["dtype"]]
    parts = [
        np.fromfile(store.folder / shard["file"], dtype=kind).reshape(shard["rows"], store.d_in)
        for shard in store.manifest["shards"][split]
    ]
    whole = np.concatenate(parts) if parts else np.zeros((0, store.d_in), kind)
    if kind is np.uint16:
        return torch.from_numpy(whole.astype(np.int32) << 16).view(torch.float32)
    return torch.from_numpy(whole).float()


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """The content of every file of a finished store."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
