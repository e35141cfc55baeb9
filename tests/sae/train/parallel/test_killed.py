"""`matryo sae train` under torchrun: refused without it, killed in its midst, gone on with by one process."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.processes import process_of_rank, started, wait_until

from matryo.cli import run as main
from matryo.sae.nn import load_sae
from matryo.spine.run import read_metrics, read_run

STEPS = 60


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    np.save(tmp_path / "acts.npy", np.random.default_rng(0).standard_normal((2_000, 24)).astype("float32") + 1)
    options = f"--data {tmp_path / 'acts.npy'} --n-latents 150 --k 5 --steps {STEPS} --batch-size 130 --lr 0.002"
    return f"sae train {options} --kind batch_topk --kind topk --checkpoint-every 7 --log-every 1".split()


def test_without_torchrun_a_mode_is_refused(arguments, tmp_path, capsys):
    assert main([*arguments, "--parallel", "latents", "--runs", str(tmp_path / "runs")]) == 2
    line = capsys.readouterr().err
    assert "this is one; start them with: torchrun --nproc-per-node 2 -m matryo sae train" in line
    assert line.count("\n") == 1 and not (tmp_path / "runs").exists()


def killed(arguments: list[str], runs: Path, rank: int) -> tuple[str, Path]:
    """Start two processes, kill one after some steps; what is said, and the run."""
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "matryo"]
    with started([*launched, *arguments, "--runs", str(runs)]) as process:
        wait_until(lambda: list(runs.glob("2*/checkpoints/step-0*")), process)
        os.kill(process_of_rank(process.pid, rank), signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    (run,) = runs.glob("2*")
    return out + err, run


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
@pytest.mark.parametrize(("mode", "rank"), [("grid", 0), ("latents", 1)])
def test_a_lost_process_is_named_and_the_run_goes_on_with_one(mode, rank, arguments, tmp_path, capfd):
    asked = [] if mode == "grid" else ["--parallel", mode]
    said, run = killed([*arguments, *asked], tmp_path / "killed", rank)
    assert f"parallel: {mode}, {'autoencoders' if mode == 'grid' else 'latents'} over 2 processes" in said
    lines = [line for line in said.splitlines() if "was lost" in line]
    assert len(lines) == 1 and lines[0].startswith(f"matryo: error: process {rank} of 2 (counted from 0) was lost"), (
        said
    )
    assert lines[0].endswith(f"go on with: matryo sae train --resume {run}, on any number of processes")
    assert not (run / "run.json").exists()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main(["sae", "train", "--resume", str(run)]) == 0
    assert main([*arguments, "--runs", str(tmp_path / "whole")]) == 0
    torch.set_num_threads(threads)
    whole = tmp_path / "whole" / "latest"
    assert [row["step"] for row in read_metrics(run)] == list(range(1, STEPS + 1))
    outputs = read_run(run).outputs
    assert list(outputs["saes"]) == list(read_run(whole).outputs["saes"]) and len(outputs["saes"]) == 2
    for place in outputs["saes"].values():
        ours, theirs = (load_sae(path / place).W_dec.detach() for path in (run, whole))
        # Of a grid the sums are those of one process; over slices they are added in another order.
        assert (ours - theirs).norm() <= (0 if mode == "grid" else 1e-3) * theirs.norm()
