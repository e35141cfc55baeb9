"""`matryo sae harvest` as a process that is killed, interrupted and resumed."""

import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from tests.processes import started, wait_until
from tests.sae.store import harvests
from tests.sae.store.harvests import STORES, content
from tests.sae.texts import write_sentences

from matryo.cli import run

TOKENS = 24_000


@pytest.fixture
def harvest(tmp_path, monkeypatch) -> list[str]:
    """The arguments of a harvest, and the same small chunks for harvests in this process."""
    monkeypatch.setattr("matryo.sae.activations.CHUNK_TOKENS", harvests.CHUNK_TOKENS)
    write_sentences(tmp_path / "text.txt", 3_000)
    return harvests.arguments(tmp_path / "text.txt", TOKENS)


def harvesting(arguments: list[str]):
    return started([sys.executable, "-c", harvests.COMMAND, *arguments], torch.get_num_threads())


def tokens_done(runs: Path) -> int:
    """Training tokens that the last site's journal counts, of the one run there is."""
    journals = list(runs.glob(f"2*/{STORES[-1]}/journal.json"))
    return json.loads(journals[0].read_text())["done"].get("train", 0) if journals else 0


@pytest.mark.slow
def test_killed_then_interrupted_then_resumed_it_is_the_uninterrupted_store(harvest, tmp_path, capfd):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with harvesting([*harvest, "--runs", str(killed)]) as process:
        wait_until(lambda: tokens_done(killed) >= TOKENS // 5, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    (folder,) = killed.glob("2*")
    after_kill = tokens_done(killed)
    assert not any((folder / store / "store.json").exists() for store in STORES)

    with harvesting(["sae", "harvest", "--resume", str(folder)]) as process:
        wait_until(lambda: tokens_done(killed) >= after_kill + TOKENS // 5, process)
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
