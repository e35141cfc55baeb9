"""`matryo sae meta` from trained runs and from SAE folders: what it writes, and bad input in one line."""

import json
import re
import shlex

import numpy as np
import pytest
import torch
from pyarrow import parquet
from tests.command_line import error_of, run

from matryo import cli
from matryo.sae.compare.meta import decoder_directions, decompose
from matryo.sae.nn import SAE, SAEConfig, build

QUICK = "--steps 12 --n-meta 6 --k 2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of two sizes, with levels and without, of two seeds; and SAE folders of other widths and sites."""
    folder = tmp_path_factory.mktemp("meta")
    np.save(folder / "acts.npy", np.random.default_rng(1).normal(size=(500, 12)).astype(np.float32))
    line = (
        f"sae train --data {folder}/acts.npy --n-latents 20 --n-latents 31 --k 3 --levels none --levels nested "
        f"--sae-seed 0 --sae-seed 1 --batch-size 64 --steps 4 --runs {folder}/runs"
    )
    assert cli.run(shlex.split(line)) == 0
    for name, d, site in (("wide", 13, None), ("here", 12, "blocks.1.hook_resid_pre"), ("there", 12, "blocks.2.x")):
        sae = build(SAEConfig(kind="relu", d_in=d, n_latents=17))
        sae.eval().save(folder / name, {"hook_name": site, "model_name": "tiny"})
    return folder


def columns(path):
    return parquet.read_table(path).to_pydict()


def test_a_run_is_taken_apart_with_pairs_and_families(folder, monkeypatch, capsys, tmp_path):
    line = f"sae meta runs/latest {QUICK} --runs {tmp_path}"
    code, said = run(line, folder, monkeypatch, capsys)
    assert code == 0
    made = (tmp_path / "latest").resolve()
    scores = json.loads((made / "scores.json").read_text())
    assert len(scores["saes"]) == 8
    assert len(re.findall(r"decoder variance explained: meta-SAE .*random", said.out)) == 8
    pair = scores["pairs"]["batch_topk-31-k3-nested"]
    share = {name: one["variance_explained"] for name, one in scores["saes"].items()}
    assert pair["plain"] == [share["batch_topk-31-k3-s0"], share["batch_topk-31-k3-s1"]]
    assert pair["nested"] == [share["batch_topk-31-k3-nested-s0"], share["batch_topk-31-k3-nested-s1"]]
    # The smaller SAE of the same family is compared with; no other is.
    assert list(scores["saes"]["batch_topk-31-k3-s1"]["smaller"]) == ["batch_topk-20-k3-s1"]
    assert scores["saes"]["batch_topk-20-k3-s1"]["smaller"] == {}
    family = scores["families"]["batch_topk-31-k3-s0"]
    assert list(family["saes"]) == ["batch_topk-20-k3-s0", "batch_topk-31-k3-s0"]
    page = (made / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!#)|url\((?!#)|@import""", page)
    assert "<svg" in page and "other dictionaries of its size" in page
    assert "most active on" not in page, "no text was read"


def test_tables_are_the_decomposition_of_the_saved_meta_sae(folder, monkeypatch, capsys, tmp_path):
    name = "batch_topk-31-k3-s0"
    line = f"sae meta runs/latest {QUICK} --sae {name} --no-baselines --latent 4 --runs {tmp_path}"
    assert run(line, folder, monkeypatch, capsys)[0] == 0
    made, trained = (tmp_path / "latest").resolve(), folder / "runs" / "latest"
    outputs = json.loads((made / "run.json").read_text())["outputs"]["meta"]
    assert list(outputs) == [name]
    meta, sae = SAE.load(made / outputs[name]["meta_sae"]), SAE.load(trained / "saes" / name)
    parts = decompose(meta, decoder_directions(sae))
    edges, latents = columns(made / outputs[name]["edges"]), columns(made / outputs[name]["latents"])
    assert (edges["latent"], edges["meta_latent"]) == (parts.latent.tolist(), parts.meta.tolist())
    assert torch.allclose(torch.tensor(edges["contribution"]), parts.contribution, atol=1e-5)
    assert torch.allclose(torch.tensor(latents["explained"], dtype=torch.double), parts.explained, atol=1e-5)
    assert latents["meta_latents"] == parts.counts.tolist()
    near = columns(made / outputs[name]["meta_latents"])
    small = decoder_directions(SAE.load(trained / "saes" / "batch_topk-20-k3-s0"))
    vectors = torch.nn.functional.normalize(meta.W_dec.detach(), dim=1)
    assert near["nearest_latent batch_topk-20-k3-s0"] == (vectors @ small.t()).argmax(1).tolist()
    assert ">latent 4<" in (made / "report.html").read_text()


def test_an_sae_folder_needs_no_run(folder, monkeypatch, capsys, tmp_path):
    line = f"sae meta here {QUICK} --smaller runs/latest --n-meta 5 --runs {tmp_path}"
    code, said = run(line.replace("--n-meta 6 ", ""), folder, monkeypatch, capsys)
    assert code == 0
    assert "here: 5 meta-latents" in said.out


CASES = {
    "rate": (f"runs/latest {QUICK} --lr nan", "lr is nan; expected a positive number"),
    "penalty": (f"runs/latest {QUICK} --kind relu --l1 nan", "l1 is nan; expected a number of 0 or more"),
    "auxiliary": (f"runs/latest {QUICK} --aux-weight nan", "aux_weight is nan; expected a number of 0 or more"),
    "as many as rows": ("runs/latest --n-meta 31", "31 meta-latents for (20|31) decoder rows; expected fewer"),
    "k above": ("runs/latest --n-meta 3 --k 4", "k is 4 for 3 meta-latents"),
    "fraction": ("runs/latest --fraction 1.5", "fraction is 1.5; expected more than 0 and less than 1"),
    "unknown sae": ("runs/latest --sae batch_topk-31-k3", "'batch_topk-31-k3'.*did you mean"),
    "latent": ("runs/latest --latent 25 --n-meta 6", "latent is 25; batch_topk-20-k3-s0 has 0 to 19"),
    "width": ("runs/latest wide", "is of width 12, wide of 13; expected SAEs of one site: leave one out"),
    "other width": ("runs/latest --smaller wide --n-meta 6", "is of width 12, wide of 13; expected SAEs of one site"),
    "site": ("here there", "here is of site blocks.1.hook_resid_pre, there of blocks.2.x"),
    "nothing": ("nowhere", "nowhere"),
    "tokens": ("runs/latest --label-tokens -1", "label_tokens is -1; expected 0 or more"),
}


@pytest.mark.parametrize("line, pattern", CASES.values(), ids=CASES)
def test_bad_input_is_one_line_and_leaves_no_folder(line, pattern, folder, monkeypatch, capsys, tmp_path):
    code, said = run(f"sae meta {line} --runs {tmp_path}/new", folder, monkeypatch, capsys)
    assert code == 2
    assert re.search(pattern, error_of(said)), said.err
    assert not (tmp_path / "new").exists()


def test_a_folder_of_another_library_is_taken_apart(folder, monkeypatch, capsys, tmp_path):
    from matryo.sae.interop import write_sae
    from matryo.spine.fetch import file_sha256

    sae = build(SAEConfig(kind="jumprelu", d_in=12, n_latents=23, k=3)).eval()
    write_sae(sae, "dictionary_learning", tmp_path / "theirs", {"hook_name": "blocks.1.hook_resid_post"})
    code, said = run(f"sae meta {tmp_path}/theirs {QUICK} --runs {tmp_path / 'runs'}", folder, monkeypatch, capsys)
    assert code == 0, said.err
    told = json.loads((tmp_path / "runs" / "latest" / "meta" / "theirs" / "cfg.json").read_text())["metadata"]
    assert told["base_weights_sha256"] == file_sha256(tmp_path / "theirs" / "ae.pt")
    assert told["hook_name"] == "blocks.1.hook_resid_post"
