"""`matryo sae stitch` and `family` from end to end: tables, SAEs, resuming, and one-line errors."""

import json
import re
import shlex
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests.command_line import run

from matryo import cli
from matryo.sae.commands import stitching
from matryo.sae.nn import SAE, SAEConfig, build

D, SIZES = 14, (20, 31, 45)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A training run of three sizes and two seeds, and one of a Matryoshka and a TopK SAE, on an array."""
    folder = tmp_path_factory.mktemp("stitch")
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((40, D))
    code = rng.exponential(size=(3000, 40)) * (rng.random((3000, 40)) < 0.07)
    np.save(folder / "acts.npy", (code @ basis + 1).astype(np.float32))
    flags = "--data acts.npy --k 3 --batch-size 256 --steps 150 --lr 3e-3 --quiet"
    sizes = " ".join(f"--n-latents {n}" for n in SIZES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run(shlex.split(f"sae train {flags} {sizes} --sae-seed 0 --sae-seed 1 --runs a")) == 0
        assert cli.run(shlex.split(f"sae train {flags} --n-latents 24 --levels 6,12,24 --runs b")) == 0
        assert cli.run(shlex.split(f"sae train {flags} --n-latents 33 --kind topk --kind relu --runs c")) == 0
    return folder


def sae(n, seed=0):
    return f"a/latest/saes/batch_topk-{n}-k3-s{seed}"


def test_stitch_writes_tables_scores_report_and_saes(folder, monkeypatch, capsys, tmp_path):
    line = f"sae stitch {sae(20)} {sae(45)} --threshold 0.6 --assignment --save-step 3 --runs {tmp_path}"
    code, said = run(line, folder, monkeypatch, capsys)
    assert code == 0, said.err
    made = (tmp_path / "latest").resolve()
    latents, steps, edges, pairs = (
        pq.read_table(made / f"{name}.parquet").to_pylist() for name in ("latents", "steps", "edges", "pairs")
    )
    scores = json.loads((made / "scores.json").read_text())
    large = [row for row in latents if row["side"] == "large"]
    assert [len(large), len(latents)] == [45, 65]
    assert scores["novel"] == sum(row["status"] == "novel" for row in large) > 0
    assert all((row["delta_mse"] < 0) == (row["status"] == "novel") for row in large)
    assert sum(row["assigned"] is not None for row in large) == 20
    small, big = (SAE.load(folder / sae(n)).W_dec.detach() for n in (20, 45))
    for row in edges:
        a, b = big[row["large_latent"]], small[row["small_latent"]]
        assert float(torch.cosine_similarity(a, b, dim=0)) == pytest.approx(row["cosine"], abs=1e-5)
        assert row["cosine"] > 0.6
    assert pairs[0]["edges"] == len(edges) == scores["edges"]
    for order in ("published", "greedy"):
        mine = [row for row in steps if row["order"] == order]
        assert [mine[0]["n_latents"], mine[-1]["n_latents"]] == [20, 45]
        assert mine[0]["fvu"] == pytest.approx(scores["fvu_small"])
        assert mine[-1]["fvu"] == pytest.approx(scores["fvu_large"], rel=1e-5)
        assert mine[-1]["l0"] == pytest.approx(scores["l0_large"])
    published = [row for row in steps if row["order"] == "published"]
    inserted = published[scores["novel"]]
    assert inserted["phase"] == "insert" and inserted["fvu"] == pytest.approx(scores["fvu_inserted"])
    assert scores["insertion_mse_change"] == pytest.approx(inserted["mse"] / published[0]["mse"] - 1)
    assert [row["n_latents"] for row in published[:4]] == [20, 21, 22, 23]
    assert SAE.load(made / "saes" / "step-3").config.n_latents == 23
    assert not (made / "kept").exists()
    page = (made / "report.html").read_text()
    assert page.count("<figure>") >= 3 and "largest decoder cosine" in page and "FVU along the way" in page
    assert all(f"{scores[key]:.4f}" in page for key in ("greedy_fvu_highest", "published_fvu_highest", "fvu_inserted"))
    greedy = [row for row in steps if row["order"] == "greedy"]
    assert scores["greedy_fvu_highest"] == pytest.approx(max(row["fvu"] for row in greedy))
    assert greedy[scores["novel"]]["mse"] == pytest.approx(inserted["mse"]), "all that is novel is in"
    # What was stitched is measured, and stitched further.
    code, said = run(f"sae evaluate {made} --runs {tmp_path}", folder, monkeypatch, capsys)
    assert code == 0 and "inserted" in said.out and "step-3" in said.out
    line = f"sae stitch {made}/saes/inserted {sae(45, 1)} --threshold 0.5 --order published --runs {tmp_path}"
    assert run(line, folder, monkeypatch, capsys)[0] == 0


def test_an_sae_and_itself_share_everything(folder, monkeypatch, capsys, tmp_path):
    code, said = run(f"sae stitch {sae(31)} {sae(31)} --runs {tmp_path}", folder, monkeypatch, capsys)
    assert code == 0, said.err
    assert "0 novel (0.0 %), 0 reconstruction, 31 shared" in said.out
    steps = pq.read_table(tmp_path / "latest" / "steps.parquet").to_pydict()
    assert steps["mse"] == pytest.approx([steps["mse"][0]] * len(steps["mse"]), rel=1e-6)


def test_a_weight_file_belongs_to_the_run_it_lies_in(folder, monkeypatch, capsys, tmp_path):
    small, large = (f"{sae(n)}/sae_weights.safetensors" for n in (20, 45))
    code, said = run(f"sae stitch {small} {large} --threshold 0.5 --runs {tmp_path}", folder, monkeypatch, capsys)
    assert code == 0, said.err


def test_the_stream_after_a_block_is_that_before_the_next(folder, monkeypatch, capsys, tmp_path):
    for name, n, hook in (("after", 20, "blocks.0.hook_resid_post"), ("before", 45, "blocks.1.hook_resid_pre")):
        SAE.load(folder / sae(n)).save(tmp_path / name, {"hook_name": hook, "model_name": "tiny"})
    line = f"sae stitch {tmp_path}/after {tmp_path}/before --data acts.npy --threshold 0.5 --runs {tmp_path}"
    code, said = run(line, folder, monkeypatch, capsys)
    assert code == 0, said.err


def test_other_kinds_and_prefixes(folder, monkeypatch, capsys, tmp_path):
    nested = "b/latest/saes/batch_topk-24-k3-levels6_12_24-s0"
    for small, large in ((f"{nested}@12", "c/latest/saes/topk-33-k3-s0"), ("c/latest/saes/relu-33-l1_5-s0", sae(45))):
        line = f"sae stitch {small} {large} --threshold 0.3 --runs {tmp_path}"
        code, said = run(line, folder, monkeypatch, capsys)
        assert code == 0, said.err
    told = ["keeps the k largest latents" in page.read_text() for page in tmp_path.glob("*-stitch-*/report.html")]
    assert sorted(told) == [False, True], "of the pair with a TopK without levels only"


def test_family_finds_ladders_controls_and_merges(folder, monkeypatch, capsys, tmp_path):
    code, said = run(f"sae family a/latest --threshold 0.5 --runs {tmp_path}", folder, monkeypatch, capsys)
    assert code == 0, said.err
    made = tmp_path / "latest"
    scores = json.loads((made / "scores.json").read_text())
    assert scores["ladders"] == [[f"batch_topk-{n}-k3-s{seed}" for n in SIZES] for seed in (0, 1)]
    for row in scores["by_sizes"]:
        group = [one["novel_share"] for one in scores["pairs"] if one["n_large"] == row["n_large"]]
        assert [row["pairs"], row["novel_share"]] == [2, pytest.approx(sum(group) / 2)]
        assert [row["novel_share_least"], row["novel_share_largest"]] == [min(group), max(group)]
        half = 12.706204736 * abs(group[0] - group[1]) / 2  # t_{0.975, 1} · s / √2, s = |a − b| / √2
        interval = row["novel_share_low"], row["novel_share_high"]
        assert interval == pytest.approx((row["novel_share"] - half, row["novel_share"] + half), abs=1e-9)
    falls = [one["mse_large"] < one["mse_small"] for one in scores["pairs"]]
    assert scores["mse_falls_from_size_to_size"] == all(falls)
    assert len(scores["pairs"]) == 4 and len(scores["controls"]) == 3
    assert all(one["n_small"] == one["n_large"] for one in scores["controls"])
    for number in (0, 1):
        merged = scores["merged"][f"merged-{number}"]
        assert sum(merged["latents"].values()) == merged["n_latents"] > SIZES[0]
        assert SAE.load(made / "saes" / f"merged-{number}").config.n_latents == merged["n_latents"]
    steps = pq.read_table(made / "steps.parquet").to_pydict()
    assert len(set(zip(steps["small"], steps["large"], steps["order"], strict=True))) == 8
    code, said = run(f"sae family b/latest --prefixes --threshold 0.3 --runs {tmp_path}", folder, monkeypatch, capsys)
    assert code == 0, said.err
    assert "6 shared" in said.out, "a prefix is part of the next"
    line = f"sae family {sae(45)} b/latest c/latest/saes/topk-33-k3-s0 --threshold 0.3 --no-merged --runs {tmp_path}"
    code, said = run(line, folder, monkeypatch, capsys)
    assert code == 0, said.err
    assert said.out.index("24-k3") < said.out.index("topk-33") < said.out.index("batch_topk-45")


def test_an_interrupted_run_goes_on_with_what_is_left(folder, monkeypatch, capsys, tmp_path):
    whole = f"sae family a/latest --threshold 0.5 --runs {tmp_path / 'whole'}"
    assert run(whole, folder, monkeypatch, capsys)[0] == 0
    greedy, calls = stitching._greedy, []

    def stop(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return greedy(*args)

    monkeypatch.setattr(stitching, "_greedy", stop)
    code, said = run(f"sae family a/latest --threshold 0.5 --runs {tmp_path / 'cut'}", folder, monkeypatch, capsys)
    assert code == 130 and "go on with: matryo sae family --resume" in said.out
    made = (tmp_path / "cut" / "latest").resolve()
    assert len(list((made / "kept").glob("*.parquet"))) == 4
    assert len(pq.read_table(made / "pairs.parquet")) == 7, "what was known is kept"
    calls.clear()
    monkeypatch.setattr(stitching, "_greedy", lambda *args: calls.append(args) or greedy(*args))
    code, said = run(f"sae family --resume {made}", folder, monkeypatch, capsys)
    assert code == 0, said.err
    assert len(calls) == 2
    for name in ("steps", "latents", "pairs", "edges"):
        one, other = (pq.read_table(path / f"{name}.parquet") for path in (made, tmp_path / "whole" / "latest"))
        assert repr(one.to_pydict()) == repr(other.to_pydict()), name  # nan equals nan


def test_a_run_that_latest_pointed_to_is_found_again_after_an_interruption(folder, monkeypatch, capsys, tmp_path):
    shutil.copytree(next((folder / "a").glob("*-train-*")), tmp_path / "runs" / "trained")
    shutil.copy(folder / "acts.npy", tmp_path)
    (tmp_path / "runs" / "latest").symlink_to("trained")
    told = json.loads((tmp_path / "runs" / "trained" / "run.json").read_text())
    told["outputs"]["store"] = str(tmp_path / "acts.npy")
    (tmp_path / "runs" / "trained" / "run.json").write_text(json.dumps(told))
    small, large = (f"runs/latest/saes/batch_topk-{n}-k3-s0" for n in (20, 45))
    for line in (f"stitch {small} {large}@40", "family runs/latest"):
        (tmp_path / "runs" / "latest").unlink()
        (tmp_path / "runs" / "latest").symlink_to("trained")
        with monkeypatch.context() as patch:
            patch.setattr(f"matryo.sae.commands.{line.split()[0]}.walk_paths", lambda *_: _interrupt())
            code, said = run(f"sae {line} --threshold 0.5 --data acts.npy", tmp_path, patch, capsys)
        assert code == 130, said.err
        made = (tmp_path / "runs" / "latest").resolve()
        command = line.split()[0]
        code, said = run(f"sae {command} --threshold 0.7 --resume {made}", tmp_path / "runs", monkeypatch, capsys)
        assert code == 2 and "another config: threshold: 0.5 -> 0.7;" in said.err
        code, said = run(f"sae {command} trained one --resume {made}", tmp_path / "runs", monkeypatch, capsys)
        assert code == 2
        code, said = run(f"sae {command} --resume {made}", tmp_path / "runs", monkeypatch, capsys)
        assert code == 0, said.err


def _interrupt():
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def odd(folder):
    """SAEs that do not go with the others."""
    plain = build(SAEConfig(kind="relu", d_in=D, n_latents=22)).eval()
    plain.save(folder / "loose", {})
    plain.save(folder / "elsewhere", {"hook_name": "blocks.3.hook_resid_pre", "model_name": "tiny"})
    plain.save(folder / "here", {"hook_name": "blocks.1.hook_resid_pre", "model_name": "tiny"})
    told = {"hook_name": "blocks.1.hook_resid_pre", "model_name": "tiny"}
    plain.save(folder / "centred", told | {"model_from_pretrained_kwargs": {"center_writing_weights": True}})
    build(SAEConfig(kind="relu", d_in=9, n_latents=22)).save(folder / "narrow", {})
    build(SAEConfig(kind="relu", d_in=D, n_latents=22, d_out=3)).save(folder / "transcoder", {})
    shutil.copytree(folder / "loose", folder / "normed")
    told = json.loads((folder / "normed" / "cfg.json").read_text())
    told["normalize_activations"] = "layer_norm"
    del told["metadata"]["matryo"]
    (folder / "normed" / "cfg.json").write_text(json.dumps(told))
    scaled = SAE.load(folder / sae(31))
    scaled.rescale(0.01)
    scaled.save(folder / "scaled", {})
    return folder


BAD = {
    "width": (f"stitch narrow {sae(20)}", "narrow is of width 9, batch_topk-20-k3-s0 of 14; expected SAEs of one site"),
    "site": ("stitch here elsewhere", "here is of site blocks.1.hook_resid_pre, elsewhere of blocks.3.hook_resid_pre"),
    "normalisation": ("stitch here centred", "here is of normalisation none, centred of centred weights"),
    "layer norm": (f"stitch normed {sae(20)}", "normalize_activations is 'layer_norm'; expected 'none'"),
    "scale": (
        f"stitch scaled {sae(45)}",
        "scaled has FVU .* no better than their mean; expected an SAE of this site",
    ),
    "no activations": ("stitch loose here", "no activations of loose are at hand, as it belongs to no run; expected"),
    "transcoder": (f"stitch transcoder {sae(20)}", "transcoder is a transcoder; expected SAEs"),
    "empty graph": (f"stitch {sae(20)} {sae(45)} --threshold 0.9999", "similarity graph of .* is empty"),
    "threshold": (f"stitch {sae(20)} {sae(45)} --threshold 1.5", "threshold is 1.5; expected a cosine between 0 and 1"),
    "several": ("stitch a/latest a/latest", "has 6 SAEs; expected one, as a/latest/saes/NAME"),
    "nothing": (f"stitch {sae(20)}", "two SAEs are needed"),
    "level": (f"stitch {sae(20)}@21 {sae(45)}", "level is 21; expected 1 to 20"),
    "topk level": (
        f"stitch c/latest/saes/topk-33-k3-s0@20 {sae(45)}",
        "topk-33-k3-s0@20 is a prefix of a TopK SAE without levels",
    ),
    "step": (f"stitch {sae(20)} {sae(45)} --threshold 0.6 --save-step 999", "step is 999; expected 0 to"),
    "not there": (f"stitch nowhere {sae(20)}", "nowhere does not exist"),
    "no ladder": (
        "family c/latest",
        "no two of topk-33-k3-s0, relu-33-l1_5-s0 differ in size alone",
    ),
    "one": (f"family {sae(20)}", "expected two or more SAEs, each of another size"),
    "no run": ("family", "run is empty; expected training runs or SAEs"),
    "resume of another": ("stitch --resume a/latest", "a/latest is a run of another command"),
    "resume of none of its": ("family --resume a/latest", "a/latest is a run of another command"),
    "no levels": ("family a/latest --prefixes", "no SAE of a/latest has levels"),
    "other data": ("stitch here here --data narrow.npy", "here has width 14, the activations have 9"),
}


@pytest.mark.parametrize("line, pattern", BAD.values(), ids=BAD)
def test_refused_in_one_line(line, pattern, odd, monkeypatch, capsys, tmp_path):
    np.save(odd / "narrow.npy", np.ones((99, 9), dtype=np.float32))
    code, said = run(f"sae {line} --quiet --runs {tmp_path / 'runs'}", odd, monkeypatch, capsys)
    assert code == 2 and said.err.count("\n") == 1
    assert re.search(pattern, said.err), said.err
    assert not (tmp_path / "runs").exists()
