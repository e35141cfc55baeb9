"""The real SAELens reads what we write and we read what it writes, with equal outputs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.sae.nn.cases import CASES, N_LATENTS, Case, K
from torch import Tensor

from matryo.sae.nn import SAE

OURS = [
    case for case in CASES if not (case.transcoder and (case.kind == "gated" or case == Case("topk", "none", True)))
]

THEIRS = {
    "standard-centred": "relu",
    "standard-plain": "relu",
    "jumprelu-centred": "jumprelu",
    "jumprelu-plain": "jumprelu",
    "gated-centred": "gated",
    "gated-plain": "gated",
    "topk-centred": "topk",
    "topk-plain": "topk",
    "topk-centred-rescaled": "topk",
    "topk-plain-rescaled": "topk",
    "transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "trained-topk": "topk",
    "trained-batchtopk": "jumprelu",
    "trained-matryoshka": "jumprelu",
    "trained-jumprelu": "jumprelu",
    "trained-gated": "gated",
    "trained-standard": "relu",
}


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of ours that SAELens has read, and of theirs; SAELens runs once, in a process of its own."""
    if importlib.util.find_spec("sae_lens") is None:
        pytest.skip("sae_lens is not installed; pip install -c constraints.txt -e '.[dev]' brings it")
    folder = tmp_path_factory.mktemp("saelens")
    (folder / "ours").mkdir()
    for case in OURS:
        case.fitted(torch.float32).save(
            folder / "ours" / str(case), {"model_name": "gpt2", "hook_name": "blocks.1.hook"}
        )
        save_file({"x": case.data(dtype=torch.float32)[0]}, folder / "ours" / f"{case}.x.safetensors")
    script = Path(__file__).with_name("saelens_twin.py")
    run = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads((folder / "done.json").read_text())["theirs"] == sorted(THEIRS)
    return folder


def same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape and bool(theirs.isfinite().all()) and float(theirs.abs().max()) > 0.1
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", OURS, ids=str)
@torch.no_grad()
def test_saelens_reads_ours(case: Case, exchange: Path) -> None:
    sae, theirs = case.fitted(torch.float32), load_file(exchange / "read" / f"{case}.safetensors")
    same(sae.encode(theirs["x"]), theirs["z"])
    same(sae(theirs["x"]), theirs["x_hat"])
    assert 0 < float((theirs["z"] > 0).float().mean()) < 1
    if case.kind in ("topk", "batch_topk"):
        assert 0.3 * K < float((theirs["z"] > 0).sum(1).float().mean()) < 3 * K


@pytest.mark.parametrize("case", OURS, ids=str)
@torch.no_grad()
def test_what_saelens_saves_again_is_still_ours(case: Case, exchange: Path) -> None:
    sae, again = case.fitted(torch.float32), SAE.load(exchange / "resaved" / str(case))
    x = case.data(dtype=torch.float32)[0]
    assert again.config == sae.config and torch.equal(again(x), sae(x))
    config = json.loads((exchange / "resaved" / str(case) / "cfg.json").read_text())
    assert config["metadata"]["model_name"] == "gpt2", "SAELens keeps the metadata, in its nested place"


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_we_read_theirs(name: str, exchange: Path) -> None:
    sae, theirs = SAE.load(exchange / "theirs" / name), load_file(exchange / "theirs" / f"{name}.safetensors")
    assert sae.config.kind == THEIRS[name] and sae.config.transcoder == ("transcoder" in name) and not sae.training
    same(sae.encode(theirs["x"]), theirs["z"])
    same(sae(theirs["x"]), theirs["x_hat"])
    same(sae.decode(theirs["z"]), theirs["x_hat"])
    assert theirs["z"].shape[1] != N_LATENTS and 0 < float((theirs["z"] > 0).float().mean()) < 1
    if sae.config.kind == "topk":
        assert sae.config.k == 4


@pytest.mark.parametrize("name", THEIRS)
def test_theirs_saved_by_us_still_loads(name: str, exchange: Path, tmp_path: Path) -> None:
    theirs = load_file(exchange / "theirs" / f"{name}.safetensors")
    SAE.load(exchange / "theirs" / name).save(tmp_path)
    with torch.no_grad():
        same(SAE.load(tmp_path)(theirs["x"]), theirs["x_hat"])
