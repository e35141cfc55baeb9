"""Everything the SAE room computes, on a device that is not the CPU. Run by test_devices.py in its own process."""

from pathlib import Path

import pytest
import torch
from tests.sae.nn.cases import Case, each_kind, some_cases
from tests.sae.pretend_device import PRETEND, Elsewhere, PretendDevice

from matryo.sae.evaluate import measure_reconstruction
from matryo.sae.kernels import use
from matryo.sae.nn import SAE, build
from matryo.sae.train import Checkpoints, Interrupted, TrainConfig, checkpoint, train

SITE = "blocks.2.resid_pre"
CONFIG = TrainConfig(steps=6, dead_after=40, lr=1e-3, log_every=2, checkpoint_every=0)


@pytest.fixture(autouse=True)
def pretend(monkeypatch: pytest.MonkeyPatch):
    # safetensors copies what it is given to the CPU, but reads the address of its memory first, which is not there.
    save = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", lambda t, path: save({name: v.cpu() for name, v in t.items()}, path))
    with PretendDevice():
        yield


def same(a: SAE, b: SAE) -> None:
    """Parameters of b, which is elsewhere, equal those of a."""
    theirs = b.state_dict()
    assert all(isinstance(value, Elsewhere) for value in theirs.values())
    for name, value in a.state_dict().items():
        assert torch.equal(value.nan_to_num(7.0), theirs[name].cpu().nan_to_num(7.0)), name


def test_the_device_refuses_what_a_gpu_refuses() -> None:
    here, there, index = torch.arange(3.0), torch.arange(3.0).to(PRETEND), torch.tensor([2, 0])
    assert there.device.type == "pretend" and torch.zeros(2, device=PRETEND).device == there.device
    for wrong in (
        lambda: here + there,
        lambda: torch.cat([here, there]),
        lambda: here[index.to(PRETEND)],
        lambda: here.index_put_((index,), there[:2]),
        lambda: there.index_add_(0, index, there[:2]),
        lambda: torch.rand(2, device=PRETEND, generator=torch.Generator()),
    ):
        with pytest.raises(RuntimeError, match=r"another device|of the CPU"):
            wrong()
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()
    assert (there * torch.tensor(2.0)).cpu().tolist() == [0, 2, 4] and there[index].cpu().tolist() == [2, 0]
    there[index] = there[index] + 5
    assert there.cpu().tolist() == [5, 1, 7]


@some_cases
def test_training_gives_the_same_weights_interrupted_or_not(case: Case, tmp_path: Path) -> None:
    rows = [case.data(23, torch.float32, seed) for seed in range(6)]
    batches = rows if case.transcoder else [x for x, _ in rows]
    here, there, resumed = build(case.config), build(case.config).to(PRETEND), build(case.config).to(PRETEND)
    with use("torch"):
        train(here, batches, CONFIG, calibration=batches[:2])
    train(there, batches, CONFIG, calibration=batches[:2])
    same(here, there)
    stops = iter([False, False, True])
    with pytest.raises(Interrupted):
        train(
            build(case.config).to(PRETEND),
            batches,
            CONFIG,
            checkpoints=Checkpoints(tmp_path),
            should_stop=lambda: next(stops),
        )
    train(resumed, batches, CONFIG, calibration=batches[:2], checkpoints=Checkpoints(tmp_path), resume=True)
    same(here, resumed)


@each_kind
def test_a_trained_sae_is_used_and_saved(case: Case, tmp_path: Path) -> None:
    here, there = case.fitted(torch.float32), case.fitted(torch.float32).to(PRETEND)
    x, _ = case.data(dtype=torch.float32)
    entries = there.encode_sparse(x.to(PRETEND))
    assert torch.equal(there(x.to(PRETEND)).cpu(), here(x))
    assert torch.equal(there.encode(x.to(PRETEND)).cpu(), here.encode(x))
    assert torch.equal(there.decode_sparse(entries, 9).cpu(), here.decode_sparse(here.encode_sparse(x), 9))
    assert torch.equal(there.prefix(9)(x.to(PRETEND)).cpu(), here.prefix(9)(x))
    assert measure_reconstruction({"": there}, [x]) == measure_reconstruction({"": here}, [x])
    there.save(tmp_path)
    same(SAE.load(tmp_path), there)


@each_kind
def test_bfloat16(case: Case) -> None:
    sae, (x, _) = build(case.config).bfloat16().to(PRETEND), case.data(dtype=torch.float32)
    train(sae, [x], CONFIG)
    assert all(isinstance(value, Elsewhere) for value in sae.state_dict().values())
