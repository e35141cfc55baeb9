"""Memory of a training step beyond weights, moments and batch: the peak of a fresh process for each contender.

    python -m bench.memory --kind batch_topk --name SAELens

prints one line of JSON. Linux only: the peak is VmHWM of /proc/self/status, reset through /proc/self/clear_refs.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.contender import Contender, Task
from bench.peers import contenders
from bench.workload import Shape, make

STEPS = 3
SMALL = Shape(d_in=64, n_latents=512, batch=256, k=8)


def measure_all(kind: str, shape: Shape) -> dict[str, Any]:
    """Extra memory of every contender of a kind, each in a process of its own."""
    if not Path("/proc/self/clear_refs").exists():
        raise OSError("there is no /proc/self/clear_refs; expected Linux, where a process's peak can be reset")
    rows = []
    for contender in contenders(kind):
        print(f"  {contender.name}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "bench.memory", "--kind", kind, "--name", contender.name]
        command += ["--batch", str(shape.batch)]
        done = subprocess.run(command, capture_output=True, text=True)
        row: dict[str, Any] = {
            "library": contender.library,
            "version": contender.version,
            "variant": contender.variant,
        }
        if done.returncode == 0:
            row |= {"state": "measured"} | json.loads(done.stdout.strip().splitlines()[-1])
        else:
            lines = done.stderr.strip().splitlines() or ["no message"]
            missing = "ModuleNotFoundError" in lines[-1]
            row |= {"state": "missing" if missing else "failed", "why": lines[-1]}
        rows.append(row)
    return {"shape": vars(shape), "rows": rows}


def measure(contender: Contender, warm: Contender, kind: str, shape: Shape) -> dict[str, float]:
    """MB (10⁶ bytes) of one contender: the peak of its first steps, less what was there before and what it keeps.

    A small autoencoder of the same kind takes two steps first, so that imports, thread pools and compiled code are not
    counted; the batch and the starting weights lie in memory before. What the contender keeps (weights, buffers,
    moments) is counted tensor by tensor afterwards and taken off.
    """
    work = make(SMALL)
    warm.setup(Task(kind, SMALL), work)
    for _ in range(2):
        warm.step(work.batches[0])
    task, work = Task(kind, shape), make(shape, n_batches=1)
    del warm
    before = _settled()
    contender.setup(task, work)
    _settled()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    for _ in range(STEPS):
        contender.step(work.batches[0])
    peak = _status("VmHWM")
    kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in contender.state()}
    held = sum(kept.values())
    return {"extra_mb": (peak - before - held) / 1e6, "kept_mb": held / 1e6, "peak_mb": peak / 1e6}


def _settled() -> int:
    """Resident bytes after what is free has been given back to the system."""
    gc.collect()
    # With another C library freed memory may stay, for every contender alike.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _status("VmRSS")


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}; expected a Linux that counts it")


def main() -> None:
    """Measure one contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--batch", type=int, default=Shape.batch)
    options = parser.parse_args()
    contender, warm = (next(c for c in contenders(options.kind) if c.name == options.name) for _ in range(2))
    print(json.dumps(measure(contender, warm, options.kind, Shape(batch=options.batch))))


if __name__ == "__main__":
    main()
