"""Processes that tests start, kill, stop and interrupt."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def started(command: list[str], threads: int = 1) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the block."""
    process = subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(reached: Callable[[], object], process: subprocess.Popen[str], seconds: float = 150) -> None:
    """Wait for a process to come to some point, which it must do before it ends."""
    until = time.monotonic() + seconds
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "no progress is made"
        time.sleep(0.002)


def process_of_rank(launcher: int, rank: int) -> int:
    """The process of a rank that torchrun, the launcher, started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            told = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == launcher and f"RANK={rank}".encode() in told:
            return int(folder.name)
    raise AssertionError(f"there is no process of rank {rank}")
