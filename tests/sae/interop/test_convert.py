"""`matryo sae convert`, and names on the Hugging Face hub."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from matryo import cli
from matryo.sae.interop import load_foreign
from matryo.sae.nn import SAE

GOLDEN = Path(__file__).with_name("golden")


def run(line, capsys):
    code = cli.run(["sae", "convert", *shlex.split(line)])
    return code, capsys.readouterr()


@torch.no_grad()
def test_it_says_what_it_found_and_what_it_folded(tmp_path, capsys):
    source = GOLDEN / "dictionary_learning" / "MatryoshkaBatchTopKSAE"
    code, said = run(f"{source} --out {tmp_path}/a", capsys)
    assert code == 0, said.err
    assert "found: MatryoshkaBatchTopKSAE of dictionary_learning; batch_topk, 19 latents on width 7, k 3" in said.out
    assert "levels 4 10 19" in said.out and "(saelens); read back" in said.out
    theirs = load_file(source / "outputs.safetensors")
    assert torch.allclose(SAE.load(tmp_path / "a")(theirs["x"]), theirs["x_hat"], atol=1e-5)
    code, said = run(f"{GOLDEN}/gemma_scope/embedding/width_19 --to dictionary_learning --out {tmp_path}/b", capsys)
    assert code == 0 and "√7" in said.out and "taken off b_enc" in said.out
    assert json.loads((tmp_path / "b" / "config.json").read_text())["trainer"]["dict_class"] == "JumpReluAutoEncoder"
    code, said = run(f"{tmp_path}/a --out {tmp_path}/b", capsys)
    assert code == 2 and "is not empty" in said.err
    code, said = run(f"{tmp_path}/a --to sparsify --out {tmp_path}/c", capsys)
    assert code == 2 and "sparsify" in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@torch.no_grad()
def test_a_batch_topk_without_threshold_is_given_one(tmp_path, capsys):
    source = GOLDEN / "authors" / "batchtopk"
    for to in ("saelens", "dictionary_learning"):
        code, said = run(f"{source} --to {to} --out {tmp_path}/{to}", capsys)
        assert code == 2 and "has no inference threshold" in said.err and "--threshold" in said.err
        code, said = run(f"{source} --to {to} --out {tmp_path}/{to} --threshold 0.8", capsys)
        assert code == 0, said.err
        assert float(load_foreign(tmp_path / to).sae.threshold) == pytest.approx(0.8)  # pyright: ignore
    for name, value, word in (
        ("authors/topk", 1, "infers without"),
        ("authors/batchtopk", -1, "expected a number of 0"),
    ):
        code, said = run(f"{GOLDEN}/{name} --out {tmp_path}/c --threshold {value}", capsys)
        assert code == 2 and word in said.err


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub with one repository in it, as a download leaves it; no network is needed for that."""
    import huggingface_hub
    from huggingface_hub import constants

    commit = "0" * 40
    repository = tmp_path / "hub" / "models--somebody--saes"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    shutil.copytree(GOLDEN / "sparsify" / "layers.3", snapshot / "layers.3")
    shutil.copytree(GOLDEN / "saelens" / "standard", snapshot, dirs_exist_ok=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return huggingface_hub


def test_names_on_the_hub(hub, monkeypatch):
    assert load_foreign("hf:somebody/saes").what == "standard SAE of SAELens"
    assert load_foreign("hf:somebody/saes:layers.3/").what == "SparseCoder of sparsify"
    monkeypatch.setattr(hub.HfApi, "list_repo_files", lambda *_: ["a/b/ae.pt", "a/c/params.npz", "README.md"])
    for name in ("hf:somebody/saes:layers.4", "hf:somebody/saes:a"):
        with pytest.raises(ValueError, match=r"holds no SAE: it has a/b, a/c; expected hf:OWNER/REPO:SUBFOLDER"):
            load_foreign(name)


def test_only_an_saes_own_files_are_fetched(hub, monkeypatch, tmp_path):
    asked = {}

    def fetch(repository, allow_patterns):
        asked[repository] = allow_patterns
        return str(tmp_path / "hub" / "models--somebody--saes" / "snapshots" / ("0" * 40))

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    load_foreign("hf:somebody/saes:layers.3")
    assert "layers.3/sae.safetensors" in asked["somebody/saes"] and "layers.3/cfg.json" in asked["somebody/saes"]
    assert all("*" not in pattern for pattern in asked["somebody/saes"])


def test_a_name_without_network_is_one_line(hub, tmp_path, capsys):
    code, said = run(f"hf:nobody/nothing:layers.1 --out {tmp_path}/a", capsys)
    assert code == 2 and said.err.count("\n") == 1
    assert "cannot fetch 'nobody/nothing' from the Hugging Face hub" in said.err and "local folder" in said.err
    for wrong in ("hf:nothing", "hf:a/b/c", "hf:a/b:../c"):
        with pytest.raises(ValueError, match="expected hf:OWNER/REPO"):
            load_foreign(wrong)
