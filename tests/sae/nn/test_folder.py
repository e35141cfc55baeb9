"""Folders that are broken, altered or somebody else's: one line that names the path, nothing unpickled."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.sae.nn.cases import D_IN, N_LATENTS, Case, K

from matryo.sae.nn import SAE

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Case("jumprelu", "nested").fitted(torch.float32).save(tmp_path / "sae")
    return tmp_path / "sae"


def refused(folder: Path, *words: str) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        SAE.load(folder)
    text = str(caught.value)
    assert "\n" not in text and str(folder) in text, text
    assert all(word in text for word in words), text


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / CONFIG).read_text())
    edit(config)
    (folder / CONFIG).write_text(json.dumps(config))


def foreign(folder: Path) -> None:
    """Take away what we wrote beside SAELens' own keys."""
    change(folder, lambda config: config["metadata"].pop("matryo"))


def test_an_intact_folder_loads(folder: Path) -> None:
    assert SAE.load(folder).config.kind == "jumprelu" and SAE.load(str(folder)).config.nested
    foreign(folder)
    assert SAE.load(folder).config.kind == "jumprelu" and not SAE.load(folder).config.nested


@pytest.mark.parametrize("keep", [0, 7, 100, 2000, -1])
def test_truncated_weights(folder: Path, keep: int) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:keep])
    refused(folder, WEIGHTS)
    foreign(folder)
    refused(folder, WEIGHTS)


@pytest.mark.parametrize("at", [-1, 1500])
def test_altered_weights(folder: Path, at: int) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[at] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    refused(folder, WEIGHTS, "copy the folder again")


def test_weights_of_another_run(folder: Path, tmp_path: Path) -> None:
    Case("jumprelu", "sampled").sae(torch.float32).save(tmp_path / "other")
    (folder / WEIGHTS).write_bytes((tmp_path / "other" / WEIGHTS).read_bytes())
    SAE.load(tmp_path / "other")
    save_file({name: value * 2 for name, value in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    refused(folder, WEIGHTS)


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).rename(tmp_path / WEIGHTS)
    refused(folder, WEIGHTS, "expected")
    (folder / CONFIG).unlink()
    refused(folder, CONFIG)
    refused(tmp_path / "nowhere", CONFIG)
    refused(tmp_path / WEIGHTS, CONFIG)
    (folder / CONFIG).mkdir()
    refused(folder, CONFIG)


@pytest.mark.parametrize("text", ["", "{", '{"d_in": 7', "[]", "3", "null", '"jumprelu"', '{"metadata": [1]}', "{}"])
def test_config_that_is_none(folder: Path, text: str) -> None:
    (folder / CONFIG).write_text(text)
    refused(folder, CONFIG)


def test_config_in_another_encoding(folder: Path) -> None:
    (folder / CONFIG).write_bytes(b"\xff\xfe{\x00}\x00")
    refused(folder, CONFIG)


@pytest.mark.parametrize("name", ["sae.pt", "ae.pth", "pytorch_model.bin", "sae.pkl"])
def test_pickles_are_never_opened(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        pickle.dump(Explosive(tmp_path / "exploded"), file)
    refused(tmp_path, name, "pickle", CONFIG)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / name).read_bytes())
    (tmp_path / CONFIG).write_text('{"architecture": "standard", "d_in": 7, "d_sae": 43}')
    refused(tmp_path, WEIGHTS)
    assert not (tmp_path / "exploded").exists()


class Explosive:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


UNSUPPORTED = [
    ({"normalize_activations": "layer_norm"}, ["normalize_activations", "'layer_norm'", "'none'"]),
    ({"normalize_activations": "expected_average_only_in"}, ["normalize_activations", "expected_average_only_in"]),
    ({"reshape_activations": "hook_z"}, ["reshape_activations", "hook_z"]),
    ({"architecture": "jump_relu"}, ["architecture", "jump_relu", "did you mean 'jumprelu'"]),
    ({"architecture": "temporal"}, ["architecture", "temporal"]),
    ({"architecture": "skip_transcoder", "d_out": 6}, ["architecture", "skip_transcoder"]),
    ({"architecture": "jumprelu_skip_transcoder", "d_out": 6}, ["architecture", "jumprelu_skip_transcoder"]),
    ({"architecture": "jumprelu_transcoder"}, ["d_out"]),
    ({"architecture": None}, ["architecture"]),
    ({"architecture": "topk"}, ["k"]),
    ({"architecture": "topk", "k": 2.5}, ["k", "2.5"]),
    ({"architecture": "topk", "k": 44}, ["k is 44"]),
    ({"architecture": "topk", "k": 4}, ["does not fit", "threshold"]),
    ({"architecture": "standard"}, ["does not fit", "threshold"]),
    ({"architecture": "gated"}, ["does not fit", "b_gate"]),
    ({"d_in": None}, ["d_in"]),
    ({"d_in": "seven"}, ["d_in", "seven"]),
    ({"d_in": D_IN + 1}, ["does not fit", "W_enc"]),
    ({"d_sae": N_LATENTS - 1}, ["does not fit", "W_enc"]),
]


@pytest.mark.parametrize(("keys", "words"), UNSUPPORTED, ids=[str(keys) for keys, _ in UNSUPPORTED])
def test_what_other_writers_may_ask_for(folder: Path, keys: dict[str, Any], words: list[str]) -> None:
    foreign(folder)
    change(folder, lambda config: config.update(keys))
    refused(folder, *words)


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda ours: ours.pop("weights_sha256"), WEIGHTS),
        (lambda ours: ours.pop("config"), "d_in"),
        (lambda ours: ours["config"].update(kind="jumprelo"), "jumprelu"),
        (lambda ours: ours["config"].update(n_latent=3), "n_latent"),
        (lambda ours: ours["config"].update(k=-1), "k is -1"),
        (lambda ours: ours["config"].update(kind="relu"), "does not fit"),
    ],
    ids=["no hash", "no config", "kind", "field", "value", "other kind"],
)
def test_our_own_keys_altered(folder: Path, edit: Callable[[dict[str, Any]], object], word: str) -> None:
    change(folder, lambda config: edit(config["metadata"]["matryo"]))
    refused(folder, word)


def test_a_failed_save_leaves_the_old_folder(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    sae = Case("batch_topk").sae(torch.float32)
    with pytest.raises(ValueError, match="no inference threshold"):
        sae.save(folder)
    sae.calibrate([Case("batch_topk").data(dtype=torch.float32)[0]])
    with pytest.raises(TypeError):
        sae.save(folder, {"hook": object()})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert SAE.load(folder).config.kind == "jumprelu"


def test_saelens_keys(tmp_path: Path) -> None:
    for case, expected in (
        (Case("relu"), {"architecture": "standard", "apply_b_dec_to_input": True}),
        (Case("gated", "nested"), {"architecture": "gated"}),
        (Case("topk"), {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": False}),
        (Case("topk", "tuple"), {"architecture": "jumprelu"}),
        (Case("batch_topk"), {"architecture": "jumprelu"}),
        (Case("relu", "none", True), {"architecture": "transcoder", "d_out": 6, "apply_b_dec_to_input": False}),
        (Case("batch_topk", "nested", True), {"architecture": "jumprelu_transcoder", "d_out": 6}),
    ):
        case.fitted(torch.float32).save(tmp_path, {"sae_lens_version": "5.0", "matryo": "mine"})
        config = json.loads((tmp_path / CONFIG).read_text())
        expected = expected | {"d_in": D_IN, "d_sae": N_LATENTS, "dtype": "float32", "normalize_activations": "none"}
        assert {key: config[key] for key in expected} == expected
        assert config["metadata"]["sae_lens_version"].startswith("6.") and "config" in config["metadata"]["matryo"]
        shapes = {name: tuple(value.shape) for name, value in load_file(tmp_path / WEIGHTS).items()}
        assert shapes["W_enc"] == (D_IN, N_LATENTS) and shapes["W_dec"][0] == N_LATENTS
        assert shapes.get("threshold", (N_LATENTS,)) == (N_LATENTS,)
