"""A resumed run keeps its own settings: flags that say the same are taken, others are refused by name and value."""

import shutil

import numpy as np
import pytest
from tests.command_line import error_of, run

TRAIN = "--data acts.npy --n-latents 20 --k 3 --batch-size 64 --steps 4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resumed")
    np.save(folder / "acts.npy", np.random.default_rng(1).normal(size=(600, 12)).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """A finished run of two SAEs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        from matryo import cli

        line = f"sae train {TRAIN} --n-latents 30 --checkpoint-every 2"
        assert cli.run(line.split()) == 0
    return (folder / "runs" / "latest").resolve()


@pytest.fixture
def begun(trained, folder):
    """The same run before it was finished."""
    shutil.copytree(trained, begun := folder / "runs" / "begun")
    (begun / "run.json").unlink()
    yield begun
    shutil.rmtree(begun)


@pytest.mark.parametrize("flags", ["", "--steps 4", "--k 3 --n-latents 20 --n-latents 30 --data acts.npy"])
def test_the_same_settings_go_on(flags, begun, folder, monkeypatch, capsys):
    code, said = run(f"sae train {flags} --resume runs/begun", folder, monkeypatch, capsys)
    assert code == 0, said.err
    assert (begun / "run.json").is_file()


def test_from_another_folder(begun, folder, monkeypatch, capsys):
    code, said = run("sae train --resume begun", folder / "runs", monkeypatch, capsys)
    assert code == 0, said.err


@pytest.mark.parametrize(
    ("flags", "changes"),
    [
        ("--steps 40", "steps: 4 -> 40;"),
        ("--k 5 --batch-size 32", "batch_size: 64 -> 32; k: [3] -> [5];"),
        ("--n-latents 20", "n_latents: [20, 30] -> [20];"),
        ("tiny", "batch_size: 64 -> 1024;"),
    ],
)
def test_other_settings_are_refused_by_name_and_value(flags, changes, begun, folder, monkeypatch, capsys):
    code, said = run(f"sae train {flags} --resume runs/begun", folder, monkeypatch, capsys)
    assert code == 2
    assert f"begun was started with another config: {changes}" in error_of(said)
    assert not (begun / "run.json").exists()


def test_a_run_of_another_command_is_refused(begun, folder, monkeypatch, capsys):
    for command in ("harvest --tokens 300", "stitch", "family --prefixes", "index --tokens 5"):
        code, said = run(f"sae {command} --resume runs/begun", folder, monkeypatch, capsys)
        assert code == 2
        assert "begun is a run of another command; expected an unfinished one of this" in error_of(said), command
