"""Checkpoints that the other libraries wrote (scripts/golden_saes.py), and what those libraries compute with them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from matryo.sae.interop import load_foreign, write_sae

GOLDEN = Path(__file__).with_name("golden")

KINDS = {
    "dictionary_learning/AutoEncoder": "relu",
    "dictionary_learning/AutoEncoderNew": "relu",
    "dictionary_learning/GatedAutoEncoder": "gated",
    "dictionary_learning/AutoEncoderTopK": "topk",
    "dictionary_learning/BatchTopKSAE": "batch_topk",
    "dictionary_learning/BatchTopKSAE-unset": "batch_topk",
    "dictionary_learning/MatryoshkaBatchTopKSAE": "batch_topk",
    "dictionary_learning/JumpReluAutoEncoder": "jumprelu",
    "sparsify/layers.3": "topk",
    "sparsify/transcoder": "topk",
    "saelens/standard": "relu",
    "saelens/gated": "gated",
    "saelens/jumprelu": "jumprelu",
    "saelens/topk": "topk",
    "saelens/transcoder": "relu",
    "saelens/before-6-topk": "topk",
    "gemma_scope/layer_3/width_19": "jumprelu",
    "gemma_scope/embedding/width_19": "jumprelu",
    "authors/vanilla": "relu",
    "authors/topk": "topk",
    "authors/batch-topk": "batch_topk",
    "authors/batchtopk": "batch_topk",
    "authors/global-matryoshka-topk": "batch_topk",
    "authors/jumprelu": "jumprelu",
}
BY_BATCH = "authors/batchtopk"  # no inference threshold: the only one that selects by batch

each = pytest.mark.parametrize("name", KINDS)


def test_every_golden_folder_is_checked():
    found = {path.parent.relative_to(GOLDEN).as_posix() for path in GOLDEN.rglob("outputs.safetensors")}
    assert found == set(KINDS) | {"sparsify/skip"}  # the last is refused, see test_refused.py


@each
@torch.no_grad()
def test_outputs_are_those_of_the_other_library(name):
    found, theirs = load_foreign(GOLDEN / name), load_file(GOLDEN / name / "outputs.safetensors")
    sae = found.sae.train() if name == BY_BATCH else found.sae
    assert sae.config.kind == KINDS[name]
    assert (sae.config.d_in, sae.config.n_latents) == (7, 19)
    assert sae.config.transcoder == name.endswith("transcoder")
    assert 0.05 < float((theirs["z"] > 0).float().mean()) < 0.9
    for got, wanted in ((sae.encode(theirs["x"]), theirs["z"]), (sae(theirs["x"]), theirs["x_hat"])):
        assert got.shape == wanted.shape
        assert torch.allclose(got, wanted, atol=1e-5, rtol=0), float((got - wanted).abs().max())


@each
def test_what_is_known_beside_the_weights(name):
    found, folder = load_foreign(GOLDEN / name), name.partition("/")[0]
    config = found.sae.config
    if config.kind in ("topk", "batch_topk"):
        assert config.k == 3
    if "atryoshka" in name:
        assert config.lengths == (4, 10, 19)
    if folder in ("dictionary_learning", "saelens", "authors"):
        assert found.metadata["hook_name"].startswith("blocks.3.hook_resid_")
        assert found.metadata["context_size"] == 128 and "model_name" in found.metadata
    assert folder.replace("_", "") in found.what.lower().replace("_", "").replace(" ", "") or "authors" in found.what
    assert all("\n" not in note for note in found.notes)


FOLDED = {
    "dictionary_learning/AutoEncoder": "decoder norms were folded",
    "dictionary_learning/AutoEncoderNew": "added to b_enc",
    "dictionary_learning/JumpReluAutoEncoder": "added to b_enc",
    "dictionary_learning/BatchTopKSAE-unset": "not set",
    "gemma_scope/embedding/width_19": "√7",
    "authors/topk": "b_enc was set to 0",
    "authors/jumprelu": "added to b_enc",
    "authors/batchtopk": "no inference threshold",
}


@pytest.mark.parametrize("name", FOLDED)
def test_what_was_folded_is_said(name):
    assert any(FOLDED[name] in note for note in load_foreign(GOLDEN / name).notes)


@pytest.mark.parametrize("name", [name for name in KINDS if name != BY_BATCH])
@pytest.mark.parametrize("to", ["saelens", "dictionary_learning"])
@torch.no_grad()
def test_and_can_be_written_on(name, to, tmp_path):
    found, theirs = load_foreign(GOLDEN / name), load_file(GOLDEN / name / "outputs.safetensors")
    if name.endswith("transcoder") and (to == "dictionary_learning" or found.sae.config.kind == "topk"):
        with pytest.raises(ValueError, match="transcoder"):
            write_sae(found.sae, to, tmp_path / "out", found.metadata)
        assert not (tmp_path / "out").exists() and not list(tmp_path.iterdir())
        return
    write_sae(found.sae, to, tmp_path / "out", found.metadata)
    again = load_foreign(tmp_path / "out")
    assert torch.allclose(again.sae(theirs["x"]), theirs["x_hat"], atol=1e-5, rtol=0)
    for key in ("model_name", "hook_name", "context_size"):
        if key in found.metadata and not (name.startswith("sparsify") and key == "hook_name"):
            wanted = str(found.metadata[key])
            if to == "dictionary_learning":  # the input of layer 3 is the output of layer 2
                wanted = wanted.replace("blocks.3.hook_resid_pre", "blocks.2.hook_resid_post")
            assert str(again.metadata[key]) == wanted


def test_a_weight_file_names_its_folder_and_versions_are_recorded():
    name = "dictionary_learning/BatchTopKSAE"
    assert load_foreign(GOLDEN / name / "ae.pt").what == load_foreign(str(GOLDEN / name)).what
    versions = json.loads((GOLDEN / "versions.json").read_text())
    assert {"dictionary-learning", "eai-sparsify", "sae-lens", "torch"} <= set(versions)


@pytest.mark.parametrize("name", ["standard", "gated", "jumprelu"])
@torch.no_grad()
def test_flat_configurations_of_before_release_6(name, tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "saelens" / name, tmp_path / name))
    config = json.loads((folder / "cfg.json").read_text())
    metadata = config.pop("metadata")
    old = {"hook_point": metadata["hook_name"], "activation_fn_str": "relu", "normalize_activations": False}
    (folder / "cfg.json").write_text(json.dumps(config | {"model_name": metadata["model_name"]} | old))
    found, theirs = load_foreign(folder), load_file(folder / "outputs.safetensors")
    assert found.what == f"{name} SAE of SAELens before release 6"
    assert found.metadata == {"hook_name": "blocks.3.hook_resid_pre", "model_name": "gpt2"}
    assert torch.allclose(found.sae(theirs["x"]), theirs["x_hat"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_half_precision_is_read_as_float32_and_an_encoder_bias_in_use_is_kept(tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "authors" / "topk", tmp_path / "topk"))
    tensors = torch.load(folder / "sae.pt", weights_only=True)
    torch.save({name: value.bfloat16() for name, value in tensors.items()}, folder / "sae.pt")
    config = json.loads((folder / "config.json").read_text())
    for used in (False, True):
        (folder / "config.json").write_text(json.dumps(config | {"use_encoder_bias": str(used)}))
        sae = load_foreign(folder).sae
        assert sae.W_enc.dtype == torch.float32
        assert torch.equal(sae.W_enc, tensors["W_enc"].bfloat16().float())
        assert torch.equal(sae.b_enc, tensors["b_enc"].bfloat16().float() * used)


@torch.no_grad()
def test_a_negative_threshold_of_the_authors_acts_after_their_relu(tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "authors" / "batch-topk", tmp_path / "sae"))
    tensors, x = torch.load(folder / "sae.pt", weights_only=True), load_file(folder / "outputs.safetensors")["x"]
    torch.save(tensors | {"threshold": torch.tensor(-0.5)}, folder / "sae.pt")
    z = torch.relu((x - tensors["b_dec"]) @ tensors["W_enc"])
    assert torch.allclose(load_foreign(folder).sae.encode(x), z, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("inside", ["embedding/width_19", "layer_3/width_19"])
def test_gemma_scope_in_the_hubs_cache_is_links_to_blobs(inside, tmp_path):
    """The folder's name, which tells of embedding and transcoder, is that of the link, not of what it points to."""
    blob = tmp_path / "transcoders" / "more" / "models--google--gemma-scope-2b-pt-res" / "blobs" / ("a" * 64)
    blob.parent.mkdir(parents=True)
    shutil.copy(GOLDEN / "gemma_scope" / inside / "params.npz", blob)
    folder = blob.parent.parent / "snapshots" / ("b" * 40) / inside / "average_l0_6"
    folder.mkdir(parents=True)
    (folder / "params.npz").symlink_to(blob)
    theirs = load_file(GOLDEN / "gemma_scope" / inside / "outputs.safetensors")
    found = load_foreign(folder)
    assert not found.sae.config.transcoder, "named by a folder far above"
    assert torch.allclose(found.sae(theirs["x"]), theirs["x_hat"], atol=1e-5, rtol=1e-5)


def test_gemma_scope_says_which_folder_told_the_kind(tmp_path):
    shutil.copytree(GOLDEN / "gemma_scope" / "layer_3", tmp_path / "transcoders" / "layer_3")
    found = load_foreign(tmp_path / "transcoders" / "layer_3" / "width_19")
    assert found.sae.config.transcoder and "because of the folder's name, transcoders" in found.notes[0]
