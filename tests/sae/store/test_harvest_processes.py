"""`matryo sae harvest` under torchrun: one process is killed, others go on, the store is that of one process."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.sae.train.parallel.test_killed import process_of_rank

from matryo.cli import run as main

SITES = ("blocks.1.mlp_out", "blocks.2.resid_pre")

# The command itself, with small chunks, writing its journal after each.
COMMAND = """
import sys
from matryo.cli import main
from matryo.sae import activations
from matryo.sae.store import writer
activations.CHUNK_TOKENS, writer.JOURNAL_SECONDS = 600, 0.0
main(sys.argv[1:])
"""


def content(run: Path) -> dict[str, bytes]:
    """Every file of the stores and the rows."""
    folders = [run / "rows", *(run / f"store-{site}" for site in SITES)]
    return {
        str(path.relative_to(run)): path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


def start(processes: int, folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    (folder / "command.py").write_text(COMMAND)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*launcher, str(folder / "command.py"), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def written(runs: Path, rank: int) -> int:
    journals = list(runs.glob(f"2*/store-{SITES[-1]}/journal-{rank}.json"))
    if not journals:
        return 0
    told = json.loads(journals[0].read_text())
    return told["done"]["train"] - told.get("begin", {}).get("train", 0)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_killed_and_gone_on_with_by_others_it_is_the_store_of_one_process(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("matryo.sae.activations.CHUNK_TOKENS", 600)
    rng = random.Random(1)
    words = ["whale", "sea", "ship", "white", "captain", "said", "was", "not", "for", "that", "with", "upon", "old"]
    lines = (" ".join(rng.choices(words, k=12)).capitalize() + "." for _ in range(2_000))
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    options = (
        f"sae harvest --lm tiny --text file:{tmp_path / 'text.txt'} --tokens 15000 --row-length 64 --shard-rows 5000"
    )
    arguments = [*options.split(), *(part for site in SITES for part in ("--site", site))]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main([*arguments, "--runs", str(tmp_path / "whole")]) == 0
    torch.set_num_threads(threads)

    killed = tmp_path / "killed"
    with start(3, tmp_path, [*arguments, "--runs", str(killed)]) as process:
        until = time.monotonic() + 150
        while min(written(killed, rank) for rank in range(3)) < 600:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "the harvest makes no progress"
            time.sleep(0.002)
        os.kill(process_of_rank(process.pid, 1), signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    (run,) = killed.glob("2*")
    assert process.returncode != 0 and not (run / "run.json").exists()
    (line,) = [line for line in err.splitlines() if "was lost" in line]
    assert line.startswith("matryo: error: process 1 of 3"), err
    assert line.endswith(f"go on with: matryo sae harvest --resume {run}, on any number of processes")

    with start(2, tmp_path, ["sae", "harvest", "--resume", str(run)]) as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert out.count("store: ") == 1
    ours, theirs = content(run), content(tmp_path / "whole" / "latest")
    assert sorted(ours) == sorted(theirs)
    assert [name for name in theirs if ours[name] != theirs[name]] == []
