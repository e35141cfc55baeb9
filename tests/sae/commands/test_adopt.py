"""Pretrained SAEs of other libraries become a run, which `evaluate` takes like a training run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.command_line import run
from tests.sae.texts import write_words

from matryo.sae.interop import write_sae
from matryo.sae.nn import SAE, SAEConfig, build

GOLDEN = Path(__file__).parents[1] / "interop" / "golden"
TEXT = "--lm tiny --text file:text.txt --tokens 2500 --row-length 32 --heldout-fraction 0.2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adopt")
    write_words(folder / "text.txt")
    relu = build(SAEConfig(kind="relu", d_in=256, n_latents=300)).eval()
    write_sae(relu, "dictionary_learning", folder / "theirs", {"hook_name": "blocks.1.hook_resid_post"})
    batch = build(SAEConfig(kind="batch_topk", d_in=256, n_latents=310, k=4)).state_dict()
    del batch["threshold"]
    (folder / "authors").mkdir()
    torch.save(batch, folder / "authors" / "sae.pt")
    told = {"sae_type": "batchtopk", "top_k": "4", "hook_point": "blocks.1.hook_resid_post"}
    (folder / "authors" / "config.json").write_text(json.dumps(told))
    return folder


def test_adopted_saes_are_evaluated_like_trained_ones(folder, monkeypatch, capsys, tmp_path):
    code, said = run(f"sae adopt theirs authors {TEXT} --runs {tmp_path}", folder, monkeypatch, capsys)
    assert code == 0, said.err
    assert "AutoEncoder of dictionary_learning" in said.out and "a threshold was set" in said.out
    made = (tmp_path / "latest").resolve()
    saes = json.loads((made / "run.json").read_text())["outputs"]["saes"]
    names = ["theirs", "authors"]
    assert list(saes) == names
    batch = SAE.load(made / saes[names[1]])
    assert batch.config.kind == "batch_topk" and not bool(batch.b_enc.any())
    assert json.loads((made / saes[names[0]] / "cfg.json").read_text())["metadata"]["model_name"] == "tiny"
    code, said = run(f"sae evaluate {made} --ce-tokens 96 --runs {tmp_path}", folder, monkeypatch, capsys)
    assert code == 0, said.err
    scores = json.loads((tmp_path / "latest" / "scores.json").read_text())
    assert {one["run"] for one in scores["saes"].values()} == {made.name}
    l0 = scores["tasks"]["reconstruction"][0]["scores"][names[1]]["l0"]
    assert 2 < l0 < 8, "the threshold set on other text gives about k = 4 active latents"
    assert all(one["ce_spliced"] > 0 for one in scores["tasks"]["downstream"][0]["scores"].values())
    assert set(scores["tasks"]["downstream"][0]["scores"]) == set(names)


@pytest.fixture(scope="module")
def gpt2(folder):
    """A random GPT-2, which has LayerNorm, with the tiny model's tokenizer; and an SAE of the mean over d_model."""
    from transformers import GPT2Config, GPT2LMHeadModel

    import matryo.sae.lm

    tiny = Path(matryo.sae.lm.__file__).with_name("tiny")
    vocabulary = json.loads((tiny / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    size = {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": vocabulary}
    config = GPT2Config(**size, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / name, folder / "gpt2" / name)
    mean = build(SAEConfig(kind="relu", d_in=24, n_latents=2)).eval()
    with torch.no_grad():
        mean.W_enc.copy_(torch.tensor([1.0, -1.0]).expand(24, 2) / 24)
        mean.b_enc.fill_(-1e-4)
    mean.save(folder / "mean", {"hook_name": "blocks.1.hook_resid_pre"})
    mean.save(folder / "says so", {"model_from_pretrained_kwargs": {"center_writing_weights": True}})
    return folder


@pytest.mark.parametrize(
    "source, flags, centred",
    [
        ("mean", "", False),
        ("mean", "--center-writing-weights", True),
        ("'says so'", "--site blocks.1.resid_pre", True),
    ],
)
def test_the_model_is_processed_where_the_sae_needs_it(source, flags, centred, gpt2, monkeypatch, capsys, tmp_path):
    text = TEXT.replace("tiny", "gpt2")
    code, said = run(f"sae adopt {source} {text} {flags} --runs {tmp_path}", gpt2, monkeypatch, capsys)
    assert code == 0, said.err
    code, said = run(f"sae evaluate {tmp_path}/latest --ce-tokens 64 --runs {tmp_path}", gpt2, monkeypatch, capsys)
    assert code == 0, said.err
    scores = json.loads((tmp_path / "latest" / "scores.json").read_text())["tasks"]["reconstruction"][0]["scores"]
    l0 = next(iter(scores.values()))["l0"]
    assert l0 == 0 if centred else l0 > 0.5, "the mean over d_model is there, or is not"


def test_saes_of_models_processed_otherwise_are_not_adopted_together(gpt2, monkeypatch, capsys, tmp_path):
    line = f"sae adopt mean 'says so' {TEXT.replace('tiny', 'gpt2')} --site blocks.1.resid_pre --runs {tmp_path / 'r'}"
    code, said = run(line, gpt2, monkeypatch, capsys)
    assert code == 2 and "says-so need center_writing_weights" in said.err and "adopt them apart" in said.err


BAD = {
    "width": (
        f"{GOLDEN}/authors/topk {TEXT} --site blocks.1.resid_pre",
        "has width 7, blocks.1.resid_pre of tiny has 256",
    ),
    "transcoder": (f"{GOLDEN}/sparsify/transcoder {TEXT} --site blocks.1.mlp_out", "is a transcoder"),
    "no site": (f"{GOLDEN}/gemma_scope/layer_3/width_19 {TEXT}", "expected one: give --site"),
    "two sites": (
        f"theirs {GOLDEN}/authors/topk {TEXT}",
        "blocks.1.hook_resid_post, blocks.3.hook_resid_pre; expected one",
    ),
    "unknown site": (f"theirs {TEXT} --site blocks.1.resid_prr", "did you mean 'blocks.1.resid_pre'"),
    "no text for a threshold": (f"authors {TEXT} --calibration-fraction 0", "--calibration-fraction 0.1"),
    "not there": (f"nowhere {TEXT}", "nowhere does not exist"),
    "a folder of SAEs": (f"{GOLDEN}/gemma_scope {TEXT}", "holds some: embedding/width_19, layer_3/width_19"),
}


@pytest.mark.parametrize("line, words", BAD.values(), ids=BAD)
def test_refused_in_one_line_without_a_run(line, words, folder, monkeypatch, capsys, tmp_path):
    code, said = run(f"sae adopt {line} --runs {tmp_path / 'runs'}", folder, monkeypatch, capsys)
    assert code == 2 and said.err.count("\n") == 1
    assert words in said.err
    assert not (tmp_path / "runs").exists()


def test_a_file_that_tells_of_another_model_or_site_is_quoted(folder, monkeypatch, capsys, tmp_path):
    sae = build(SAEConfig(kind="relu", d_in=256, n_latents=9)).eval()
    sae.save(tmp_path / "far", {"hook_name": "blocks.3.hook_resid_post", "model_name": "gpt2-small"})
    sae.save(tmp_path / "near", {"hook_name": "blocks.0.hook_resid_post", "model_name": "someone/TINY"})
    line = f"sae adopt {tmp_path}/far {tmp_path}/near {TEXT} --site blocks.1.resid_pre --runs {tmp_path / 'runs'}"
    code, said = run(line, folder, monkeypatch, capsys)
    assert code == 0, said.err
    assert "says model gpt2-small, here it is measured on tiny" in said.out
    assert "says site blocks.3.hook_resid_post, here it is measured on blocks.1.resid_pre" in said.out
    assert said.out.count("its file says") == 2
