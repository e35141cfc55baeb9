"""How fast a store is read, shuffled, and whether reading keeps a training step waiting.

    python bench/store.py [--rows 1500000] [--rounds 5] [--folder DIR]

Writes a store of random activations (d = 768; 1.5 million rows are 2.1 GiB in float16), then measures rows a second of
shuffled float32 batches of 4,096: cold, after the operating system was made to forget the files, and warm; in the first
pass, which checks the hash of every block, and in a later one. Then a step's worth of matrix products (the encoder
product of 12,288 latents) with batches from memory, from the store, and from the store read ahead, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the front door does

import torch

D_IN, N_LATENTS, BATCH = 768, 12_288, 4_096
READ_BATCHES = 96
"""Batches in one measurement: six windows of 65,536 rows."""


def write(folder: Path, rows: int, dtype: str) -> float:
    """A store of random rows; seconds it took, the hashing at the end included."""
    from matryo.sae.store import StoreConfig, StoreWriter

    began = time.perf_counter()
    counts = {"train": rows, "heldout": BATCH, "calibration": BATCH}
    writer = StoreWriter(folder, counts, D_IN, StoreConfig(dtype=dtype))  # pyright: ignore[reportArgumentType]
    values = torch.randn(8_192, D_IN, generator=torch.Generator().manual_seed(0))
    for split, count in counts.items():
        for first in range(0, count, len(values)):
            writer.write(split, first, values[: count - first])
    writer.finish({"lm": "none"})
    return time.perf_counter() - began


def forget(folder: Path) -> None:
    """Have the operating system drop the files from its cache."""
    for path in folder.glob("*.bin"):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def read(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Rows a second, and rows a second of processor time, by what is already known of the files."""
    from matryo.sae.store import ShuffledBatches, open_activations

    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        table = open_activations(folder)
        source = ShuffledBatches(table, "train", BATCH)
        for state in ("cold, hashes checked", "cold, later pass", "warm, later pass"):
            if state.startswith("cold"):
                # What is mapped is not forgotten: let go of the maps, but not of what is known to be intact.
                seen = {shard: blocks for shard, (_, blocks) in table._open.items()}
                table._open.clear()
                forget(folder)
                table._open.update({shard: (table.files[shard[0]].open(shard[1]), seen[shard]) for shard in seen})
            source.restore({"pass": 0, "given": 0})  # the same rows each time
            began, used = time.perf_counter(), time.process_time()
            count = sum(len(batch) for _, batch in zip(range(READ_BATCHES), source, strict=False))
            here = found.setdefault(state, {"rows/s": [], "rows per CPU second": []})
            here["rows/s"].append(count / (time.perf_counter() - began))
            here["rows per CPU second"].append(count / (time.process_time() - used))
        del table, source
    return {
        state: {key: statistics.median(values) for key, values in numbers.items()} | {"slowest": min(numbers["rows/s"])}
        for state, numbers in found.items()
    }


def step_beside_reading(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """A batch and a step, the step being one encoder product: seconds, and how long the step waited for its batch."""
    from matryo.sae.store import ShuffledBatches, open_activations
    from matryo.sae.train.batches import BatchSource
    from matryo.sae.train.prefetch import Prefetched

    weights, out = torch.randn(D_IN, N_LATENTS), torch.empty(BATCH, N_LATENTS)
    forget(folder)
    stores = [ShuffledBatches(open_activations(folder), "train", BATCH) for _ in range(2)]
    sources = {
        "memory": Prefetched(BatchSource([torch.randn(BATCH, D_IN)]), 0),
        "store": Prefetched(BatchSource(stores[0]), 0),
        "store, read ahead": Prefetched(BatchSource(stores[1]), stores[1].read_ahead),
    }
    took: dict[str, list[float]] = {name: [] for name in sources}
    waited: dict[str, list[float]] = {name: [] for name in sources}
    for source in sources.values():
        source.take()  # the first is waited for in any case
    for _ in range(rounds):
        for name, source in sources.items():
            for _ in range(16):  # a window of 65,536 rows: each time one is read
                began = time.perf_counter()
                batch = source.take()
                given = time.perf_counter()
                torch.mm(batch[0], weights, out=out)
                took[name].append(time.perf_counter() - began)
                waited[name].append(given - began)
    for source in sources.values():
        source.close()
    return {
        name: {
            "s a step, mean": statistics.fmean(took[name]),
            "s a step, median": statistics.median(took[name]),
            "waited, share": sum(waited[name]) / sum(took[name]),
            "waited, longest s": max(waited[name]),
        }
        for name in sources
    }


def main() -> None:
    """Print every figure, and write them as JSON beside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_500_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where the stores are written; 6.6 GB by default")
    parser.add_argument("--out", type=Path, default=Path("bench/results/store.json"))
    options = parser.parse_args()
    found: dict[str, object] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": options.rows}
    for dtype in ("float16", "float32"):
        with tempfile.TemporaryDirectory(dir=options.folder) as place:
            folder = Path(place)
            seconds = write(folder, options.rows, dtype)
            gib = sum(path.stat().st_size for path in folder.glob("*.bin")) / 2**30
            figures: dict[str, object] = {"GiB": gib, "written, rows/s": options.rows / seconds}
            print(f"{dtype}: {gib:.1f} GiB, written at {options.rows / seconds:,.0f} rows/s")
            for state, numbers in read(folder, options.rounds).items():
                figures[state] = numbers
                print(f"  {state:22}" + ", ".join(f"{key} {value:,.0f}" for key, value in numbers.items()))
            if dtype == "float16":
                figures["beside a step"] = beside = step_beside_reading(folder, options.rounds)
                for name, numbers in beside.items():
                    print(f"  step from {name:18}" + ", ".join(f"{key} {value:.4f}" for key, value in numbers.items()))
            found[dtype] = figures
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
