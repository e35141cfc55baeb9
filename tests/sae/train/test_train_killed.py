"""`matryo sae train` as a process that is killed, interrupted and resumed."""

import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.processes import started, wait_until

from matryo.cli import run as main
from matryo.spine.run import read_metrics

STEPS = 40


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    """Large enough for PyTorch to use a second thread in every sort of operation."""
    rows = np.random.default_rng(0).standard_normal((4_000, 96)).astype("float32")
    np.save(tmp_path / "acts.npy", np.maximum(rows, 0) @ np.diag(np.linspace(0.5, 2, 96)).astype("float32") + 1)
    options = f"--data {tmp_path / 'acts.npy'} --n-latents 576 --k 8 --steps {STEPS} --batch-size 700 --lr 0.002"
    kinds = "--kind batch_topk --kind jumprelu --kind gated --levels nested --dead-after 9000 --checkpoint-every 7"
    return ["sae", "train", *options.split(), *kinds.split(), "--log-every", "1"]


def training(arguments: list[str], threads: int):
    return started([sys.executable, "-m", "matryo", *arguments], threads)


def finish(arguments: list[str], threads: int) -> None:
    if threads == torch.get_num_threads():
        assert main(arguments) == 0
        return
    with training(arguments, threads) as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, (out, err)


def steps_done(runs: Path) -> int:
    """Last step that the one run there is has logged."""
    folders = list(runs.glob("2*"))
    return max((row["step"] for row in read_metrics(folders[0])), default=0) if folders else 0


def outcome(run: Path) -> dict[str, bytes]:
    """The saved autoencoders, byte for byte."""
    found = {str(path.relative_to(run)): path.read_bytes() for path in sorted((run / "saes").rglob("*.*"))}
    assert len(found) == 6
    return found


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_killed_then_interrupted_then_resumed_it_ends_with_the_same_bits(threads, arguments, tmp_path, capfd):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    finish([*arguments, "--runs", str(whole)], threads)

    moment = random.randrange(3, STEPS - 20)  # a random one, as the process is killed in the midst of something
    with training([*arguments, "--runs", str(killed)], threads) as process:
        wait_until(lambda: steps_done(killed) >= moment, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    (run,) = killed.glob("2*")

    with training(["sae", "train", "--resume", str(run)], threads) as process:
        wanted = steps_done(killed) + 1
        wait_until(lambda: steps_done(killed) >= wanted, process)
        process.send_signal(signal.SIGSTOP)
        assert main(["sae", "train", "--resume", str(run)]) == 2
        assert "run folder in use" in capfd.readouterr().err
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert f"interrupted; go on with: matryo sae train --resume {run}" in out + err and "Traceback" not in err
    done = steps_done(killed)
    assert moment < done < STEPS
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{done:08d}"]
    assert not (run / "run.json").exists()

    other_values = [{"8": "9", "0.002": "0.001"}.get(argument, argument) for argument in arguments]
    assert main([*other_values, "--resume", str(run)]) == 2
    assert "another config: k: [8] -> [9]; lr: 0.002 -> 0.001;" in (err := capfd.readouterr().err), err

    finish(["sae", "train", "--resume", str(run)], threads)
    (reference,) = whole.glob("2*")
    ours, theirs = outcome(run), outcome(reference)
    assert [name for name in theirs if ours.get(name) != theirs[name]] == [], (
        f"killed at {moment}, interrupted at {done}"
    )
    ours, theirs = (
        [{k: v for k, v in row.items() if k not in ("time", "session")} for row in read_metrics(path)]
        for path in (run, reference)
    )
    assert ours == theirs and [row["step"] for row in ours] == list(range(1, STEPS + 1))
