"""`python -m bench`, or `make bench`: matryo beside its peers, section by section.

Each section runs in a process of its own; as it ends, results.json, results.md and results.svg in the output folder are
written anew. A section that fails, or a library that is not there, is told and does not stop the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from bench import report

KINDS = {
    "batch_topk": "BatchTopK",
    "topk": "TopK",
    "matryoshka": "Matryoshka (BatchTopK, 5 levels)",
    "jumprelu": "JumpReLU",
    "relu": "ReLU",
}
AUX = ("batch_topk", "topk", "matryoshka")  # the kinds with a loss on dead latents
SECTIONS = {
    **{f"step-{kind}": f"Training step, {title}" for kind, title in KINDS.items()},
    **{f"dead-{kind}": f"Training step with a tenth of the latents dead, {KINDS[kind]}" for kind in AUX},
    "encode-batch_topk": "Encoding at a threshold, BatchTopK",
    "encode-topk": "Encoding, TopK",
    "sizes": "matryo's BatchTopK step as the dictionary grows",
    "active": "matryo's BatchTopK step as k grows",
    "grid": "Many SAEs in one pass",
    **{f"memory-{kind}": f"Memory of a step, {title}" for kind, title in KINDS.items()},
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 rounds of half the batch, fewer sizes: does all run?")
    parser.add_argument("--rounds", type=int, help="timed rounds (15; 2 with --quick)")
    parser.add_argument("--warm", type=int, default=1, help="rounds before them that are not kept (1)")
    parser.add_argument("--batch", type=int, help="tokens in a batch (4,096; 2,048 with --quick)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and numba (2)")
    parser.add_argument("--only", default="", help="sections to run, by comma; the others' results are kept")
    parser.add_argument("--resume", action="store_true", help="keep the sections already in the output, run the others")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="output folder (bench/results)")
    parser.add_argument("--list", action="store_true", help="name the sections and stop")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    options = parser.parse_args()
    quick = options.quick
    options.rounds = options.rounds or (2 if quick else 15)
    options.batch = options.batch or (2_048 if quick else 4_096)
    options.names = [name for name in options.only.split(",") if name] or list(SECTIONS)
    for name in options.names:
        if name not in SECTIONS:
            parser.error(f"there is no section {name}; expected one of {', '.join(SECTIONS)}")
    if quick and not options.only:
        options.names = [n for n in options.names if n == "memory-batch_topk" or not n.startswith("memory-")]
    return options


def main() -> int:
    """Run the sections that are asked for; 1 when one of them failed."""
    options = parse()
    if options.list:
        print("\n".join(f"{name:18} {title}" for name, title in SECTIONS.items()))
        return 0
    if options.section:
        return run_section(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the section's process ends too
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.json"
    results: dict[str, Any] = {"sections": {}}
    if (options.resume or options.only) and path.exists():
        results = json.loads(path.read_text(encoding="utf-8"))
    results["run"] = describe(options)
    began = time.monotonic()
    for name in options.names:
        if options.resume and results["sections"].get(name, {}).get("state") == "measured":
            continue
        print(f"{time.monotonic() - began:5.0f} s  {name}: {SECTIONS[name]}", file=sys.stderr, flush=True)
        found = spawn(name, options)
        results["notes"] = found.pop("notes", results.get("notes", {}))
        results["sections"][name] = {"title": SECTIONS[name], "run": results["run"], **found}
        results["sections"] = {key: results["sections"][key] for key in SECTIONS if key in results["sections"]}
        write(results, options.out)
    print(f"{time.monotonic() - began:5.0f} s  done: {options.out}/results.md", file=sys.stderr)
    return int(any(section["state"] == "failed" for section in results["sections"].values()))


def spawn(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One section in a fresh process: its result, or why there is none."""
    environment = dict(os.environ)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        environment[variable] = str(options.threads)
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as matryo's front door sets it; the same for all
    environment.setdefault("WANDB_MODE", "disabled")
    part = options.out / f"{name}.tmp"
    command = [sys.executable, "-m", "bench", "--section", name, "--out", str(part)]
    command += ["--rounds", str(options.rounds), "--warm", str(options.warm), "--batch", str(options.batch)]
    command += ["--threads", str(options.threads), *(["--quick"] if options.quick else [])]
    code = subprocess.run(command, env=environment).returncode
    try:
        found = json.loads(part.read_text(encoding="utf-8"))
        part.unlink()
    except FileNotFoundError:
        return {"state": "failed", "why": f"the section's process ended with {code} and no result; its error is above"}
    return found


def run_section(options: argparse.Namespace) -> int:
    """In the section's own process: measure, and leave the result at --out."""
    import torch

    from bench import memory, scaling, sections
    from bench.workload import Shape

    torch.set_num_threads(options.threads)
    shape, rounds, warm = Shape(batch=options.batch), options.rounds, options.warm
    what, _, kind = options.section.partition("-")
    match what:
        case "step":
            found = sections.time_steps(kind, shape, rounds, warm)
        case "dead":
            found = sections.time_steps_with_dead(kind, shape, rounds, warm)
        case "encode":
            found = sections.time_encoding(kind, shape, rounds, warm)
        case "sizes":
            sizes = scaling.SIZES[:3] if options.quick else scaling.SIZES
            found = scaling.time_sizes(shape, rounds, warm, sizes)
        case "active":
            found = scaling.time_active(shape, rounds, warm)
        case "grid":
            found = scaling.time_grid(shape, rounds, warm)
        case _:
            found = memory.measure_all(kind, shape)
    found |= {"state": "measured", "notes": sections.all_notes()}
    options.out.write_text(json.dumps(found), encoding="utf-8")
    return 0


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """When, where and on what this run was made."""
    from importlib.metadata import version

    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "date": date.today().isoformat(),
        "commit": git.stdout.strip() or "unknown",
        "machine": f"{os.cpu_count()} × {model}",
        "threads": options.threads,
        "torch": version("torch"),
        "python": platform.python_version(),
        "rounds": options.rounds,
        "warm": options.warm,
        "batch": options.batch,
        "quick": options.quick,
    }


def write(results: dict[str, Any], folder: Path) -> None:
    """The three files, each whole or not at all."""
    for name, text in (("results.json", json.dumps(results, indent=1)), ("results.md", report.markdown(results))):
        part = folder / f"{name}.tmp"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / name)
    part = folder / "results.svg.tmp"
    report.figure(results, part)
    if part.exists():
        part.replace(folder / "results.svg")


if __name__ == "__main__":
    sys.exit(main())
