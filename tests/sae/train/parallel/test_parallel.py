"""Several processes, started by torchrun, do what one does, whatever they share out and however it is resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.sae.train.parallel.cases import CASES, CONFIG, FEWER, RESUMED, STEPS, do, resumable
from torch import Tensor

from matryo.sae.nn import load_sae
from matryo.sae.train.parallel import Parallel

WORKER = Path(__file__).with_name("worker.py")
ROOT = WORKER.parents[4]


def session(processes: int, folder: Path, *jobs: str) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
            WORKER,
            folder,
            *jobs,
        ],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> dict[int, Path]:
    """All jobs of this file by one, two and four processes; a run that goes from hand to hand among them."""
    folder = {count: tmp_path_factory.mktemp(f"by-{count}") for count in (1, 2, 4)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    do("cases", "", folder[1])
    do("fvu", "data", folder[1])
    resumable(Parallel("grid"), folder[1] / "whole")
    resumable(Parallel("data"), folder[2] / "resumed", 5)
    session(2, folder[2], "cases", "fvu:data", "fvu:latents", "until-7:grid", "until-9:latents", "until-10:data")
    (folder[2] / "resumed").rename(folder[4] / "resumed")
    session(4, folder[4], "fewer", "until-13:latents", "until-14:grid", "until-16:latents")
    resumable(Parallel("latents"), folder[4] / "resumed")
    torch.set_num_threads(threads)
    return folder


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_sae(folder).state_dict()


def distance(a: Tensor, b: Tensor) -> float:
    a, b = torch.nan_to_num(a, 1e30), torch.nan_to_num(b, 1e30)
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def worst(ours: Path, theirs: Path) -> float:
    a, b = tensors(ours), tensors(theirs)
    assert a.keys() == b.keys()
    assert all(value.dtype == torch.float64 for value in a.values())
    return max(distance(a[name], b[name]) for name in a)


RUNS = [(2, case) for case in CASES] + [(4, case) for case in FEWER]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "case"), RUNS, ids=lambda value: getattr(value, "name", value))
def test_twenty_steps_equal_those_of_one_process(count, case, done):
    assert CONFIG.steps == STEPS == 20
    for kind in case.kinds:
        assert worst(done[count] / case.name / kind, done[1] / case.name / kind) <= 1e-8, kind
    ours, theirs = (json.loads((folder / case.name / "lines.json").read_text()) for folder in (done[count], done[1]))
    assert [line["step"] for line in theirs] == [7, 14, 20] and len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert list(a) == list(b), "names, and their order"
        assert all(abs(a[name] - b[name]) <= 1e-8 * max(1.0, abs(b[name])) for name in b)
    assert all(theirs[-1][f"{kind}/dead"] > 0.1 and theirs[-1][f"{kind}/aux"] > 0 for kind in case.kinds)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["data", "latents"])
def test_in_float32_the_final_fvu_is_the_same(mode, done):
    ours = json.loads((done[2] / f"fvu-{mode}.json").read_text())
    theirs = json.loads((done[1] / "fvu-data.json").read_text())
    assert ours.keys() == theirs.keys() and all(0.01 < value < 0.9 for value in theirs.values())
    assert all(abs(ours[name] / theirs[name] - 1) <= 0.005 for name in theirs), (ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RESUMED.kinds)
def test_a_run_goes_on_over_any_number_of_processes_in_any_mode(kind, done):
    """One process, two, four and one again; all three modes; the weights are those of a run that was never stopped."""
    assert worst(done[4] / "resumed" / "saes" / kind, done[1] / "whole" / "saes" / kind) <= 1e-8
