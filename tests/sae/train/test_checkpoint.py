"""Checkpoints that do not fit, are damaged or could not be written: one line, and nothing lost."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.sae.train.cases import batches, make, planted
from tests.sae.train.sessions import CONFIG, STEPS, all_same, family, session

from matryo.sae.store import ShuffledBatches, open_activations
from matryo.sae.train import checkpoint


def test_another_configuration_is_refused_field_by_field(tmp_path):
    session({"a": make()}, batches(5, 71), tmp_path, stop=6)
    changes = {
        "lr: 0.005 -> 0.004": ({"a": make()}, replace(CONFIG, lr=0.004)),
        "steps: 13 -> 14": ({"a": make()}, replace(CONFIG, steps=14)),
        "sae.a.k: 3 -> 4": ({"a": make(k=4)}, CONFIG),
        "sae.a.n_latents: 48 -> 49": ({"a": make(n_latents=49)}, CONFIG),
        "saes: ['a'] -> ['a', 'b']": ({"a": make(), "b": make()}, CONFIG),
        "clip: 1.0 -> 0.5; sae.a.seed: 1 -> 2": ({"a": make(seed=2)}, replace(CONFIG, clip=0.5)),
    }
    for change, (saes, config) in changes.items():
        with pytest.raises(ValueError) as error:
            session(saes, batches(5, 71), tmp_path, config=config)
        assert f"({change})" in str(error.value) and "\n" not in str(error.value)
    often = replace(CONFIG, log_every=1, checkpoint_every=1)
    assert session({"a": make()}, batches(5, 71), tmp_path, config=often)[0] is not None


def test_other_data_are_refused_when_their_scale_tells(tmp_path):
    def source(seed: int) -> ShuffledBatches:
        return ShuffledBatches(open_activations(planted(410, seed)), "train", 71)

    session({"a": make()}, source(1), tmp_path, stop=6)
    with pytest.raises(ValueError, match=r"the batches have scale .*; expected .* resume on the same data"):
        session({"a": make()}, source(2), tmp_path)
    assert session({"a": make()}, source(1), tmp_path)[0] is not None


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.PLAIN])
@pytest.mark.parametrize("harm", ["cut short", "altered", "removed", "emptied"])
def test_a_damaged_checkpoint_is_one_line(tmp_path, name, harm):
    session({"a": make()}, batches(5, 71), tmp_path, stop=6)
    path = tmp_path / "step-00000006" / name
    content = bytearray(path.read_bytes())
    if harm == "removed":
        path.unlink()
    else:
        content[-20] ^= 1
        path.write_bytes({"cut short": path.read_bytes()[:-5], "altered": bytes(content), "emptied": b""}[harm])
    with pytest.raises(ValueError, match=r"checkpoint .*step-00000006 is truncated or altered; .*new run") as error:
        session({"a": make()}, batches(5, 71), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"plain": {}, "digest": ""}', '{"plain": 1, "digest": null}'])
def test_a_checkpoint_of_something_else_is_one_line(tmp_path, content):
    session({"a": make()}, batches(5, 71), tmp_path, stop=6)
    (tmp_path / "step-00000006" / checkpoint.PLAIN).write_text(content)
    with pytest.raises(ValueError, match="is truncated or altered"):
        session({"a": make()}, batches(5, 71), tmp_path)


def test_killed_while_a_checkpoint_is_written_the_one_before_counts(tmp_path):
    whole = {"a": make()}
    session(whole, batches(5, 71), tmp_path / "whole")
    session({"a": make()}, batches(5, 71), tmp_path / "a", stop=6)
    before = tmp_path / "a" / "step-00000006"
    half = tmp_path / "a" / "partial-00000008"
    shutil.copytree(before, half)
    (half / checkpoint.TENSORS).write_bytes((half / checkpoint.TENSORS).read_bytes()[:100])
    resumed = {"a": make()}
    session(resumed, batches(5, 71), tmp_path / "a")
    assert all_same(whole, resumed)
    assert [path.name for path in (tmp_path / "a").iterdir()] == [f"step-{STEPS:08d}"]


# A full disk, damaged data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["save_file", "write_text"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, name):
    whole = {"a": make()}
    session(whole, batches(5, 71), tmp_path / "whole")

    def full(*args, **kwargs):
        if "partial-00000008" in str(args):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    owner = checkpoint if name == "save_file" else Path
    real = getattr(owner, name)
    monkeypatch.setattr(owner, name, full)
    with pytest.raises(OSError, match=r"the checkpoint of step 8 could not be written to .*free some") as error:
        session({"a": make()}, batches(5, 71), tmp_path / "a")
    assert error.value.errno == errno.ENOSPC and "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["step-00000004"]
    monkeypatch.setattr(owner, name, real)
    resumed = {"a": make()}
    session(resumed, batches(5, 71), tmp_path / "a")
    assert all_same(whole, resumed)


def test_damaged_data_costs_nothing_that_was_learned(tmp_path):
    whole, resumed = family(), family()
    data = batches(STEPS, 71)
    session(whole, data, tmp_path / "whole")
    damaged = [batch.clone() for batch in data]
    damaged[6][3, 2] = torch.nan
    with pytest.raises(ValueError, match="row 3 of batch 6 is NaN"):
        session(family(), damaged, tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["step-00000006"]
    with pytest.raises(ValueError, match="row 3 of batch 6 is NaN"):
        session(family(), damaged, tmp_path / "a")
    session(resumed, data, tmp_path / "a")
    assert all_same(whole, resumed)


def test_a_source_that_ends_early_can_be_made_longer(tmp_path):
    whole, resumed = {"a": make()}, {"a": make()}
    session(whole, batches(STEPS, 71), tmp_path / "whole")
    with pytest.raises(ValueError, match="the batches ended at step 7 of 13"):
        session({"a": make()}, iter(batches(STEPS, 71)[:7]), tmp_path / "a")
    session(resumed, batches(STEPS, 71), tmp_path / "a")
    assert all_same(whole, resumed)


def test_checkpoints_hold_no_pickle(tmp_path):
    session({"a": make()}, batches(5, 71), tmp_path, stop=6)
    files = sorted(path.name for path in (tmp_path / "step-00000006").iterdir())
    assert files == [checkpoint.PLAIN, checkpoint.TENSORS]
    assert json.loads((tmp_path / "step-00000006" / checkpoint.PLAIN).read_text())["plain"]["step"] == 6
