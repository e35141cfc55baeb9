"""Bad input: one line that names the value, what was expected and the fix; no folder is left behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.command_line import error_of, run
from tests.sae.texts import write_words

from matryo.sae.nn import SAE, SAEConfig, build

SMALL = "--lm tiny --site blocks.1.resid_pre --text file:text.txt --tokens 3000 --row-length 32"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    write_words(folder / "text.txt")
    (folder / "short.txt").write_text("too short")
    np.save(folder / "acts.npy", np.random.default_rng(1).normal(size=(600, 12)).astype(np.float32))
    bad = np.ones((600, 12), dtype=np.float32)
    bad[417, 3] = np.nan
    np.save(folder / "nan.npy", bad)
    np.save(folder / "objects.npy", np.array([{}], dtype=object))
    (folder / "weights.pt").write_bytes(b"\x80\x02}q\x00.")
    (folder / "typo.toml").write_text("kk = 3\n")
    return folder


CASES = {
    "unknown model": ("harvest --lm tinny", "'tinny'.*did you mean 'tiny'"),
    "unknown site": (
        f"harvest {SMALL} --site blocks.1.resid_prr",
        "'blocks.1.resid_prr'.*did you mean 'blocks.1.resid_pre'",
    ),
    "too few layers": (f"harvest {SMALL} --site blocks.9.resid_pre", "tiny has 4 layers"),
    "unknown source": ("harvest --lm tiny --site blocks.1.resid_pre --text pydoc", "'pydoc'.*did you mean 'pydocs'"),
    "unknown recipe": ("train tinyy --data acts.npy", "'tinyy'.*did you mean 'tiny'"),
    "unknown flag": ("train --data acts.npy --n-latent 5", "'--n-latent'.*did you mean '--n-latents'"),
    "unknown kind": ("train --data acts.npy --kind topkk", "topkk.*topk"),
    "unknown key": ("train --config typo.toml --data acts.npy", "typo.toml.*'kk'.*did you mean 'k'"),
    "k too large": ("train --data acts.npy --n-latents 20 --k 21", "k is 21; expected at most n_latents = 20"),
    "levels": (
        "train --data acts.npy --n-latents 20 --k 2 --levels 3,9",
        r"levels is \(3, 9\).*last is n_latents = 20",
    ),
    "levels word": ("train --data acts.npy --n-latents 20 --k 2 --levels nestd", "'nestd'.*did you mean 'nested'"),
    "missing data": ("train --data nothing.npy", "nothing.npy does not exist"),
    "nan": ("train --data nan.npy", "row 417 of .*nan.npy is NaN or infinite"),
    "pickle": ("train --data weights.pt", "weights.pt.*no pickles"),
    "objects": ("train --data objects.npy", "objects.npy cannot be read.*no pickle"),
    "no site": ("train --lm tiny", "site is not given; expected one --site"),
    "not a run": ("evaluate .", "is no run folder"),
    "streamed layer": ("train --lm tiny --site blocks.9.resid_pre --text file:text.txt", "tiny has 4 layers"),
    "row length": ("harvest --lm tiny --site blocks.1.resid_pre --text file:text.txt --row-length 1", "row_length 1"),
    "asked twice": ("train --data acts.npy --kind relu --k 2 --k 3 --n-latents 20", "asked for twice"),
    "no tokens to harvest": (
        "harvest --lm tiny --site blocks.1.resid_pre --text pydocs --tokens 0",
        "tokens is 0; expected",
    ),
    "empty demo": ("demo --lm tiny --tokens 0", "tokens is 0"),
    "less than no demo": ("demo --lm tiny --ce-tokens -1", "ce_tokens is -1"),
    "nothing to resume": ("train --resume nowhere", "nowhere"),
    "no such device": (
        "train --data acts.npy --device cuda:99",
        "device 'cuda:99' cannot be used.*expected cpu, or one",
    ),
    "endless": ("train --data acts.npy --passes inf", "passes is inf; expected a positive number"),
    "no number to clip to": ("train --data acts.npy --clip nan", "clip is nan; expected 0"),
    "no dtype": ("serve . --lm-dtype float8", "float8"),
    "no threshold": ("evaluate . --explain-threshold nan", "explain_threshold is nan; expected a share"),
    "no share": ("evaluate . --absorption-share nan", "absorption_share is nan; expected a number between 0 and 1"),
    "no penalty": ("evaluate . --absorption-sparse-l1 -1", "absorption_sparse_l1 is -1.0; expected a number of 0"),
    "rows too long": (f"harvest {SMALL.replace('32', '300')}", "rows of 300 tokens: tiny takes at most 256"),
    "seed": ("train --data acts.npy --n-latents 20 --k 2 --sae-seed 99999999999999999999", "seed is 9{20}; expected"),
    "half a token": (f"harvest {SMALL.replace('3000', '1.5')}", "--tokens is 1.5; expected a whole number"),
    "half a latent": ("train --data acts.npy --n-latents 20 --n-latents 31.5", "--n-latents is 31.5; expected a whole"),
    "no numbers": ("train --data acts.npy --device meta", "device 'meta' cannot be used"),
    "infinite rate": ("train --data acts.npy --lr inf", "lr is inf; expected a positive number"),
    "no results": ("evaluate . --saebench text.txt", "text.txt: File exists"),
    "wrong demo": ("demo --lm gpt2", "gpt2.*smollm2.*tiny"),
}


@pytest.mark.parametrize("line, pattern", CASES.values(), ids=CASES)
def test_one_line_and_no_folder(line, pattern, folder, monkeypatch, capsys):
    code, said = run(f"sae {line}", folder, monkeypatch, capsys)
    assert code == 2
    assert re.search(pattern, error_of(said)), said.err
    assert not (folder / "runs").exists()


def test_text_shorter_than_a_row(folder, monkeypatch, capsys, tmp_path):
    line = f"sae harvest --lm tiny --site blocks.1.resid_pre --text file:short.txt --runs {tmp_path / 'r'}"
    code, said = run(line, folder, monkeypatch, capsys)
    assert code == 2
    assert "expected at least 3 rows of 256" in said.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("command", ["harvest", "train", "train --batch-size 1000000", "adopt sae"])
def test_text_that_fails_leaves_no_folder_and_latest_where_it_was(command, folder, monkeypatch, capsys, tmp_path):
    build(SAEConfig(kind="relu", d_in=256, n_latents=20, k=3)).save(tmp_path / "sae")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "latest").symlink_to("before")
    words = (folder / "text.txt").read_text()
    (tmp_path / "text.txt").write_text(words if "1000000" in command else words[:40])
    code, _ = run(f"sae {command} {SMALL}", tmp_path, monkeypatch, capsys)
    assert code == 2
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["latest"]
    assert (tmp_path / "runs" / "latest").readlink() == Path("before")


def test_a_store_of_another_site_or_width_is_refused_by_name(folder, monkeypatch, capsys, tmp_path):
    runs = tmp_path / "runs"
    assert run(f"sae harvest {SMALL} --runs {runs}", folder, monkeypatch, capsys)[0] == 0
    code, said = run(f"sae train --data {runs}/latest --site blocks.2.resid_pre", folder, monkeypatch, capsys)
    assert code == 2
    assert "'blocks.2.resid_pre'" in said.err and "blocks.1.resid_pre" in said.err


def test_array_of_any_origin_trains_and_is_evaluated_without_a_model(folder, monkeypatch, capsys, tmp_path):
    runs = tmp_path / "runs"
    line = f"sae train --data acts.npy --n-latents 24 --k 3 --kind batch_topk --kind topk --batch-size 64 --runs {runs}"
    assert run(line, folder, monkeypatch, capsys)[0] == 0
    code, said = run(f"sae evaluate {runs}/latest --runs {runs}", folder, monkeypatch, capsys)
    assert code == 0
    assert "batch_topk-24-k3-s0" in said.out and "n/a" in said.out
    saved = sorted((runs / "latest").resolve().parent.glob("*train*/saes/*"))
    assert [path.name for path in saved] == ["batch_topk-24-k3-s0", "topk-24-k3-s0"]
    x = torch.from_numpy(np.load(folder / "acts.npy"))
    assert SAE.load(saved[0])(x).shape == x.shape


def test_a_batch_larger_than_the_data_is_said(folder, monkeypatch, capsys, tmp_path):
    line = f"sae train --data acts.npy --n-latents 20 --k 3 --steps 1 --batch-size 700 --runs {tmp_path}"
    code, said = run(line, folder, monkeypatch, capsys)
    assert code == 0
    assert "batches are of 540 activations, all there are to train on, instead of 700" in said.out


def test_streaming_trains_without_a_store(folder, monkeypatch, capsys, tmp_path):
    runs = tmp_path / "runs"
    line = f"sae train {SMALL} --n-latents 300 --k 4 --batch-size 128 --buffer-tokens 512 --steps 12 --runs {runs}"
    assert run(line, folder, monkeypatch, capsys)[0] == 0
    code, said = run(f"sae evaluate {runs}/latest --ce-tokens 256 --runs {runs}", folder, monkeypatch, capsys)
    assert code == 0
    assert "CE over" in said.out


def test_streamed_text_shorter_than_a_batch(folder, monkeypatch, capsys, tmp_path):
    line = f"sae train {SMALL.replace('3000', '60')} --n-latents 20 --k 4 --runs {tmp_path / 'runs'}"
    code, said = run(line, folder, monkeypatch, capsys)
    assert code == 2 and "batch_size is 2048; expected at most 62, all tokens to train on" in said.err
    assert not (tmp_path / "runs").exists()


def test_a_terminal_without_the_characters_of_a_result_costs_nothing(folder, tmp_path):
    line = [sys.executable, "-m", "matryo", "sae", "train", "--data", str(folder / "acts.npy"), "--runs", str(tmp_path)]
    line += ["--n-latents", "20", "--k", "3", "--steps", "2", "--batch-size", "64"]
    told = {**os.environ, "PYTHONIOENCODING": "ascii"}
    assert subprocess.run(line, env=told, capture_output=True, check=False).returncode == 0
    line = [*line[:4], "evaluate", str(tmp_path / "latest"), "--tasks", "explanations", "--runs", str(tmp_path)]
    done = subprocess.run(line, env=told, capture_output=True, text=True, check=False)
    assert "codec" not in done.stderr and "nothing could be measured" in done.stderr
