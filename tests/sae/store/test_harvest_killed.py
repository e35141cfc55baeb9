"""`matryo sae harvest` as a process that is killed, interrupted and resumed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from matryo.cli import run

SITES = ("blocks.1.mlp_out", "blocks.2.resid_pre")
STORES = tuple(f"store-{site}" for site in SITES)
TOKENS = 24_000

# The command itself, writing its journal after every few rows, so that there is much to be killed in.
COMMAND = """
import sys
from matryo.cli import main
from matryo.sae import activations
from matryo.sae.store import writer
activations.CHUNK_TOKENS, writer.JOURNAL_SECONDS = 600, 0.0
main(sys.argv[1:])
"""


@pytest.fixture
def harvest(tmp_path, monkeypatch) -> list[str]:
    """The arguments of a harvest, and the same small chunks for harvests in this process."""
    monkeypatch.setattr("matryo.sae.activations.CHUNK_TOKENS", 600)
    rng = random.Random(1)
    words = ["whale", "sea", "ship", "white", "captain", "said", "was", "not", "for", "that", "with", "upon", "old"]
    lines = (" ".join(rng.choices(words, k=12)).capitalize() + "." for _ in range(3_000))
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    options = f"--lm tiny --text file:{tmp_path / 'text.txt'} --tokens {TOKENS} --row-length 64 --shard-rows 5000"
    return ["sae", "harvest", *options.split(), *(part for site in SITES for part in ("--site", site))]


@contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def tokens_done(runs: Path) -> int:
    """Training tokens that the last site's journal counts, of the one run there is."""
    journals = list(runs.glob(f"2*/{STORES[-1]}/journal.json"))
    return json.loads(journals[0].read_text())["done"].get("train", 0) if journals else 0


def wait_for(process: subprocess.Popen[str], runs: Path, tokens: int) -> None:
    deadline = time.monotonic() + 120
    while tokens_done(runs) < tokens:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the harvest makes no progress"
        time.sleep(0.002)


def content(run_folder: Path) -> dict[str, bytes]:
    """Every file of the stores and the rows of tokens."""
    return {
        str(path.relative_to(run_folder)): path.read_bytes()
        for folder in (*STORES, "rows")
        for path in sorted((run_folder / folder).rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_killed_then_interrupted_then_resumed_it_is_the_uninterrupted_store(harvest, tmp_path, capfd):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with started([*harvest, "--runs", str(killed)]) as process:
        wait_for(process, killed, TOKENS // 5)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    (folder,) = killed.glob("2*")
    after_kill = tokens_done(killed)
    assert not any((folder / store / "store.json").exists() for store in STORES)

    with started(["sae", "harvest", "--resume", str(folder)]) as process:
        wait_for(process, killed, after_kill + TOKENS // 5)
        process.send_signal(signal.SIGSTOP)
        assert run(["sae", "harvest", "--resume", str(folder)]) == 2
        assert "run folder in use" in capfd.readouterr().err
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert f"interrupted; go on with: matryo sae harvest --resume {folder}" in out + err
    assert "Traceback" not in err
    assert after_kill + TOKENS // 5 <= tokens_done(killed) < TOKENS
    assert run(["sae", "train", "--data", str(folder), "--runs", str(whole)]) == 2
    assert "is not finished: resume it" in capfd.readouterr().err

    assert run([*harvest, "--resume", str(folder), "--seed", "5"]) == 2
    assert "seed: 0 -> 5" in capfd.readouterr().err
    assert run(["sae", "harvest", "--resume", str(folder)]) == 0
    assert run([*harvest, "--runs", str(whole)]) == 0
    (reference,) = whole.glob("*-harvest-*")
    ours, theirs = content(folder), content(reference)
    assert ours.keys() == theirs.keys() and len(ours) == 2 * (5 + 1 + 1 + 2) + 3 * 3 + 1
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert run(["sae", "harvest", "--resume", str(folder)]) == 2
    assert "is finished: there is nothing to resume" in capfd.readouterr().err
