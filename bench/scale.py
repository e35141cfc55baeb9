"""What a training step costs each of many processes: memory, bytes through collectives, seconds. See docs/scale.md.

python -m bench.scale                      # d = 4,096, 1 M latents, 64 GPUs
python -m bench.scale --check              # against instrumented runs on this machine, at 1, 2 and 4 processes
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

FLOAT, WHOLE = 4, 8
ROUNDS, COUNTS = 3, 2**11
"""Sums that settle one float32, and the counts in each (`matryo.sae.kernels.counting`)."""

ROW_ROUNDS, ROW_COUNTS = 8, 2**4
"""The same where every row has its own."""

CANDIDATE = 12
"""Bytes of a candidate: value, row, latent."""


@dataclass(frozen=True)
class Setting:
    """One BatchTopK step; `batch` is the whole batch, `touched` the latents active in it anywhere."""

    mode: str
    processes: int
    d: int
    n: int
    batch: int
    k: int
    levels: int = 1
    touched: float = 0
    dead: int = 0
    clip: bool = True
    moment_bytes: int = 4

    @property
    def rows(self) -> float:
        """Rows of the batch here."""
        return self.batch / (self.processes if self.mode == "data" else 1)

    @property
    def latents(self) -> float:
        """Latents here."""
        return self.n / (self.processes if self.mode == "latents" else 1)

    @property
    def entries(self) -> float:
        """Active entries here."""
        return self.k * self.batch / (1 if self.mode == "grid" else self.processes)


@dataclass(frozen=True)
class Rates:
    """What a process can do while all others do the same."""

    flops: float
    "Operations a second in a matrix product."
    stream: float
    "Bytes a second read or written one after another."
    rows: float
    "Bytes a second in rows of d numbers, added up from anywhere."
    scan: float
    "Numbers a second of the encoder's product compared with a threshold."
    entries: float
    "Entries a second put into lists, rows and columns, and counted."
    link: float
    "Bytes a second that leave, and arrive, in a large sum over processes."
    latency: float
    "Seconds of a sum of a few bytes."


def expected_touched(n: int, batch: int, k: int) -> int:
    """Different latents among k · batch entries, were all equally likely; where some are not, there are fewer."""
    return round(n * -math.expm1(-k * batch / n))


def memory(s: Setting) -> dict[str, float]:
    """Bytes that a process holds for long, or at the height of a step."""
    weights = 2 * s.latents * s.d
    found = {
        "weights": FLOAT * (weights + s.latents + s.d),
        "moments": 2 * (s.moment_bytes * weights + FLOAT * (s.latents + s.d)),
        "silent tokens": WHOLE * s.latents,
        "batch, as read": FLOAT * s.batch * s.d,
        "batch, scaled and centred": 2 * FLOAT * s.rows * s.d,
        "slopes": FLOAT * s.levels * s.rows * s.d,
        "candidates and entries": 2 * CANDIDATE * 1.2 * s.entries,
    }
    if s.mode == "data" and s.processes > 1:
        found["summed gradients"] = FLOAT * (2 * s.touched * s.d + s.touched)
    return found


def payload(s: Setting) -> dict[str, float]:
    """Bytes that a process gives to sums over all, each step without a line of metrics."""
    if s.processes == 1:
        return {}
    found: dict[str, float] = {"agreeing to go on": 2 * WHOLE}
    if s.mode == "grid":
        return found
    # Rows of the batch are counted anew where they are needed; one float says what a process may have dropped.
    found["selection"] = ROUNDS * COUNTS * WHOLE + FLOAT
    found["metrics and hint"] = WHOLE + FLOAT
    if s.mode == "data":
        found["rows counted"] = 4 * WHOLE + (2 * WHOLE if s.dead else 0)
        found["losses"] = FLOAT * s.levels
        found["which latents"] = 2 * s.n
        found["gradients"] = FLOAT * (2 * s.touched * s.d + s.touched + s.d)
        if s.dead:
            found["dead latents"] = FLOAT * (s.d + 3)
        return found
    found["reconstructions"] = FLOAT * s.levels * s.batch * s.d
    found["b_dec"] = FLOAT * s.d * (2 if s.clip else 1) + (WHOLE if s.clip else 0)
    found["dead latents"] = WHOLE
    if s.dead:
        found["dead latents"] += FLOAT * s.batch * s.d + ROW_ROUNDS * s.batch * ROW_COUNTS * WHOLE
    return found


def calls(s: Setting) -> int:
    """Sums over all in a step."""
    if s.processes == 1:
        return 0
    if s.mode == "grid":
        return 2
    selection = ROUNDS + 1
    if s.mode == "data":
        return 2 + selection + 2 + 4 + 1 + 2 + 4 + (6 if s.dead else 0)
    return 2 + selection + 2 + 1 + 1 + (3 if s.clip else 1) + (1 + ROW_ROUNDS if s.dead else 0)


def seconds(s: Setting, rates: Rates) -> dict[str, float]:
    """Where a step's time goes; without dead latents, and without overlap of sums with work."""
    wire = 2 * (s.processes - 1) / s.processes * sum(payload(s).values())
    passes = 2 if s.clip and not (s.mode == "data" and s.processes > 1) else 1
    # Decoding and its gradient read a row of W_dec for each entry; each pass over the weights' gradient a row of x and
    # one of slopes.
    rows = FLOAT * s.d * s.entries * (2 + 2 * passes)
    # Adam reads and writes weights and moments; x is scaled and centred; slopes are written.
    moved = 2 * s.latents * s.d * (2 * FLOAT + 4 * s.moment_bytes)
    moved += FLOAT * s.rows * s.d * (4 + 3 * s.levels)
    if s.clip:
        moved += 2 * FLOAT * s.latents * s.d
    if s.mode == "data" and s.processes > 1:
        moved += FLOAT * 2 * s.touched * s.d * (1 + (2 if s.clip else 1))
    if s.mode == "latents" and s.processes > 1:
        moved += FLOAT * s.levels * s.rows * s.d * 6
    return {
        "encoder product": 2 * s.rows * s.latents * s.d / rates.flops,
        "reading its tiles": s.rows * s.latents / rates.scan,
        "lists of entries": s.entries / rates.entries,
        "rows of entries": rows / rates.rows,
        "weights, moments, batch": moved / rates.stream,
        "sums over processes": wire / rates.link + calls(s) * rates.latency if s.processes > 1 else 0.0,
    }


H100 = Rates(flops=400e12, stream=2.5e12, rows=1.2e12, scan=6e11, entries=1e10, link=45e9, latency=30e-6)
"""Parameters, not measurements: half of an H100's tf32 rate, three quarters of its memory's, half of that for rows, a
number scanned for 4 bytes, an entry listed for 250 bytes of traffic, and one 400 Gb/s adapter a GPU."""

LARGE = Setting("data", 64, d=4096, n=2**20, batch=65_536, k=64)


def show_large() -> None:
    """The step of docs/scale.md, in every mode and without processes."""
    touched = expected_touched(LARGE.n, LARGE.batch, LARGE.k)
    for mode, processes in (("data", 1), ("data", 64), ("latents", 64)):
        for levels in (1, 5):
            s = replace(LARGE, mode=mode, processes=processes, touched=touched, levels=levels)
            held, given, spent = memory(s), payload(s), seconds(s, H100)
            print(f"\n{mode if processes > 1 else 'one process'}, {processes} processes, {levels} levels")
            print("  memory   " + _line(held, 2**30, "GiB"))
            print("  payload  " + _line(given, 2**30, "GiB"))
            print("  time     " + _line(spent, 1e-3, "ms"))


def _line(parts: dict[str, float], unit: float, name: str) -> str:
    shown = ", ".join(f"{key} {value / unit:.3g}" for key, value in parts.items() if value / unit >= 5e-4)
    return f"{sum(parts.values()) / unit:,.4g} {name}: {shown}"


CHECKED = [
    Setting(mode, 1, d=256, n=8_192, batch=2_048, k=32, levels=levels, clip=clip)
    for mode in ("data", "latents")
    for levels, clip in ((1, False), (5, True))
]


def check(processes: list[int], out: Path) -> None:
    """Instrumented runs under torchrun, each beside what the model says of it."""
    report = []
    for count in processes:
        settings = [replace(s, processes=count) for s in CHECKED if count > 1 or s.mode == "data"]
        launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        worker = [Path(__file__).with_name("scale_worker.py"), json.dumps([asdict(s) for s in settings])]
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [*launched, *map(str, worker)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        report += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for row in report:
        s, rates = Setting(**row["setting"]), Rates(**row["rates"])
        model = {"bytes": sum(payload(s).values()), "seconds": sum(seconds(s, rates).values())}
        row["model"] = model | {"memory": memory(s), "parts": seconds(s, rates)}
        print(
            f"{s.mode:8} {s.processes} processes, {s.levels} levels, clip {s.clip!s:5}: "
            f"bytes {row['bytes']:>12,} model {model['bytes']:>14,.0f}   "
            f"held {row['held']:>12,} model {sum(memory(s)[part] for part in HELD):>14,.0f}   "
            f"step {row['seconds'] * 1e3:7.1f} ms, model / step {row['ratio']:.2f}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


HELD = ("weights", "moments", "silent tokens", "slopes")
"""What can be counted to the byte in a run."""


def main() -> None:
    """Show the large step, or check the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--out", type=Path, default=Path("bench/results/scale.json"))
    options = parser.parse_args()
    if options.check:
        check(options.processes, options.out)
    else:
        show_large()


if __name__ == "__main__":
    main()
