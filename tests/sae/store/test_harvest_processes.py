"""`matryo sae harvest` under torchrun: one process is killed, others go on, the store is that of one process."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from tests.processes import process_of_rank, started, wait_until
from tests.sae.store import harvests
from tests.sae.store.harvests import STORES, content
from tests.sae.texts import write_sentences

from matryo.cli import run as main


def harvesting(processes: int, folder: Path, arguments: list[str]):
    (folder / "command.py").write_text(harvests.COMMAND)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return started([*launcher, str(folder / "command.py"), *arguments])


def written(runs: Path, rank: int) -> int:
    journals = list(runs.glob(f"2*/{STORES[-1]}/journal-{rank}.json"))
    if not journals:
        return 0
    told = json.loads(journals[0].read_text())
    return told["done"]["train"] - told.get("begin", {}).get("train", 0)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_killed_and_gone_on_with_by_others_it_is_the_store_of_one_process(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("matryo.sae.activations.CHUNK_TOKENS", harvests.CHUNK_TOKENS)
    write_sentences(tmp_path / "text.txt", 2_000)
    arguments = harvests.arguments(tmp_path / "text.txt", 15_000)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main([*arguments, "--runs", str(tmp_path / "whole")]) == 0
    torch.set_num_threads(threads)

    killed = tmp_path / "killed"
    with harvesting(3, tmp_path, [*arguments, "--runs", str(killed)]) as process:
        wait_until(lambda: min(written(killed, rank) for rank in range(3)) >= 600, process)
        os.kill(process_of_rank(process.pid, 1), signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    (run,) = killed.glob("2*")
    assert process.returncode != 0 and not (run / "run.json").exists()
    (line,) = [line for line in err.splitlines() if "was lost" in line]
    assert line.startswith("matryo: error: process 1 of 3"), err
    assert line.endswith(f"go on with: matryo sae harvest --resume {run}, on any number of processes")

    with harvesting(2, tmp_path, ["sae", "harvest", "--resume", str(run)]) as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert out.count("store: ") == 1
    ours, theirs = content(run), content(tmp_path / "whole" / "latest")
    assert sorted(ours) == sorted(theirs)
    assert [name for name in theirs if ours[name] != theirs[name]] == []
