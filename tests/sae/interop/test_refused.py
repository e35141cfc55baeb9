"""What cannot be held exactly, is broken, or would run code: refused in one line that names it."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from matryo.sae.interop import load_foreign

GOLDEN = Path(__file__).with_name("golden")


def copied(tmp_path, name):
    return Path(shutil.copytree(GOLDEN / name, tmp_path / Path(name).name))


def refused(source, *words):
    with pytest.raises((ValueError, OSError)) as caught:
        load_foreign(source)
    text = str(caught.value)
    assert "\n" not in text, text
    assert all(word in text for word in words), text


CHANGED = {
    "per-token norm": ("authors/topk", {"input_unit_norm": True}, ["input_unit_norm", "every token is standardised"]),
    "the same as text": ("authors/batch-topk", {"input_unit_norm": "True"}, ["input_unit_norm"]),
    "tied": ("authors/topk", {"tied_weights": "True"}, ["tied_weights"]),
    "activation": ("authors/topk", {"activation": "abs"}, ["'abs'", "'relu'"]),
    "type": ("authors/topk", {"sae_type": "batch_topk"}, ["did you mean 'batchtopk'"]),
    "k of the authors": ("authors/topk", {"top_k": "many"}, ["top_k", "'many'"]),
    "groups": ("authors/global-matryoshka-topk", {"group_sizes": "4, 6"}, ["group_sizes", "4, 6"]),
    "groups that do not add up": (
        "authors/global-matryoshka-topk",
        {"group_sizes": [4, 6]},
        ["levels", "n_latents = 19"],
    ),
    "class": (
        "dictionary_learning/BatchTopKSAE",
        {"trainer": {"dict_class": "BatchTopkSAE"}},
        ["did you mean 'BatchTopKSAE'"],
    ),
    "identity": ("dictionary_learning/AutoEncoder", {"trainer": {"dict_class": "IdentityDict"}}, ["IdentityDict"]),
    "another class": (
        "dictionary_learning/AutoEncoder",
        {"trainer": {"dict_class": "GatedAutoEncoder"}},
        ["lacks", "r_mag", "has bias, encoder.bias besides"],
    ),
    "no trainer": ("dictionary_learning/AutoEncoder", {"trainer": None}, ["'trainer'"]),
    "another's matryo": (
        "dictionary_learning/AutoEncoder",
        {"matryo": {"config": {"kind": "relu", "d_in": 7, "n_latents": 18}}},
        ["'matryo'", "remove"],
    ),
    "groupmax": ("sparsify/layers.3", {"activation": "groupmax"}, ["groupmax"]),
    "unknown activation": ("sparsify/layers.3", {"activation": "topkk"}, ["did you mean 'topk'"]),
    "signed": ("sparsify/layers.3", {"signed": True}, ["signed"]),
    "k": ("sparsify/layers.3", {"k": 0}, ["k is 0"]),
    "k above n_latents": ("sparsify/layers.3", {"k": 20}, ["k is 20", "19"]),
    "layer norm": ("saelens/topk", {"normalize_activations": "layer_norm"}, ["layer_norm", "standardised by itself"]),
    "tanh": ("saelens/before-6-topk", {"activation_fn_str": "tanh-relu"}, ["'tanh-relu'"]),
    "no k": ("saelens/before-6-topk", {"activation_fn_kwargs": {}}, ["k"]),
    "old normalisation": ("saelens/before-6-topk", {"normalize_activations": True}, ["normalize_activations"]),
}


@pytest.mark.parametrize("name, change, words", CHANGED.values(), ids=CHANGED)
def test_a_configuration_we_cannot_hold(name, change, words, tmp_path):
    folder = copied(tmp_path, name)
    file = next(path for path in (folder / "cfg.json", folder / "config.json") if path.exists())
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused(folder, *words)


def test_a_skip_connection():
    refused(GOLDEN / "sparsify" / "skip", "skip connection")


def test_an_old_topk_is_not_taken_for_a_relu_without_conversion():
    from matryo.sae.nn import SAE

    with pytest.raises(ValueError, match="matryo sae convert"):
        SAE.load(GOLDEN / "saelens" / "before-6-topk")


@pytest.mark.parametrize("value", [1.0, 0.5])
def test_scaling_factors(value, tmp_path):
    gemma, old = copied(tmp_path, "gemma_scope/layer_3/width_19"), copied(tmp_path, "saelens/before-6-topk")
    with np.load(gemma / "params.npz") as arrays:
        kept = {key.replace("W_", "w_"): arrays[key] for key in arrays.files}
    np.savez(gemma / "params.npz", **kept, scaling_factor=np.full(19, value, np.float32))
    weights = old / "sae_weights.safetensors"
    save_file(load_file(weights) | {"scaling_factor": torch.full((19,), value)}, weights)
    if value == 1:
        for folder in (gemma, old):
            x = load_file(folder / "outputs.safetensors")
            assert torch.allclose(load_foreign(folder).sae(x["x"]), x["x_hat"], atol=1e-5)
    else:
        refused(gemma, "scaling_factor")
        refused(old, "scaling_factor")


@pytest.mark.parametrize(
    "name, file",
    [("sparsify/layers.3", "sae.safetensors"), ("saelens/topk", "sae_weights.safetensors")],
)
def test_a_tensor_that_nothing_here_reads_is_not_passed_over(name, file, tmp_path):
    weights = copied(tmp_path, name) / file
    save_file(load_file(weights) | {"W_more": torch.ones(19)}, weights)
    refused(weights.parent, "W_more")


@pytest.mark.parametrize("name", ["dictionary_learning/AutoEncoder", "authors/topk"])
def test_nor_one_of_a_pickled_file(name, tmp_path):
    folder = copied(tmp_path, name)
    (weights,) = folder.glob("*.pt")
    torch.save(torch.load(weights, weights_only=True) | {"W_more": torch.ones(19)}, weights)
    refused(folder, "has W_more besides; expected exactly")


class Explosive:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["dictionary_learning/AutoEncoder", "authors/topk"])
def test_pickles_that_would_run_code(name, tmp_path):
    folder = copied(tmp_path, name)
    file = next(folder.glob("*.pt"))
    for write in (lambda: torch.save({"W": Explosive(tmp_path / "ran")}, file), lambda: dump(file, tmp_path / "ran")):
        write()
        refused(folder, file.name, "cannot be read as tensors alone")
        assert not (tmp_path / "ran").exists()


def dump(file, path):
    with file.open("wb") as stream:
        pickle.dump(Explosive(path), stream)


@pytest.mark.parametrize("held", [[1, 2], {"a": 3}, {3: torch.ones(2)}, torch.ones(2)])
def test_files_that_hold_something_else(held, tmp_path):
    folder = copied(tmp_path, "authors/topk")
    torch.save(held, folder / "sae.pt")
    refused(folder, "sae.pt", "state dict")


def test_objects_in_an_npz(tmp_path):
    folder = copied(tmp_path, "gemma_scope/layer_3/width_19")
    np.savez(folder / "params.npz", W_enc=np.array([Explosive(tmp_path / "ran")], dtype=object))
    refused(folder, "params.npz")
    assert not (tmp_path / "ran").exists()


ONE_OF_EACH = [
    "dictionary_learning/AutoEncoder",
    "sparsify/layers.3",
    "saelens/before-6-topk",
    "gemma_scope/layer_3/width_19",
    "authors/topk",
]
WEIGHTS = {"ae.pt", "sae.safetensors", "sae_weights.safetensors", "params.npz", "sae.pt"}


@pytest.mark.parametrize("keep", [0, 9, 300])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_truncated_weights(name, keep, tmp_path):
    folder = copied(tmp_path, name)
    file = next(path for path in folder.iterdir() if path.name in WEIGHTS)
    file.write_bytes(file.read_bytes()[:keep])
    refused(folder, str(file))


@pytest.mark.parametrize("text", [None, "", "{", "[]", "3"])
@pytest.mark.parametrize("name", [name for name in ONE_OF_EACH if "gemma" not in name])
def test_a_configuration_that_is_none(name, text, tmp_path):
    folder = copied(tmp_path, name)
    file = next(path for path in (folder / "cfg.json", folder / "config.json") if path.exists())
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    refused(folder, file.name)


def test_places_without_an_sae(tmp_path):
    refused(tmp_path / "nowhere", "nowhere does not exist", "hf:OWNER/REPO")
    refused(tmp_path, "holds no SAE", "params.npz")
    (tmp_path / "model.pt").write_bytes(b"x")
    refused(tmp_path, "model.pt may be a pickle", "not opened")
    refused(tmp_path / "model.pt", "is no SAE's weights")
    refused(GOLDEN / "sparsify", "holds some: layers.3, skip, transcoder", "name one")
    both = copied(tmp_path, "authors/topk")
    shutil.copy(GOLDEN / "dictionary_learning" / "AutoEncoder" / "ae.pt", both)
    refused(both, "ae.pt, sae.pt", "name the file")
    assert load_foreign(both / "sae.pt").sae.config.kind == "topk"
