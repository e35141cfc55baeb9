"""A run that stops goes on, and ends with the same bits as one that did not."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.sae.train.cases import D_IN, Counting, batches, make, planted, same, weights

from matryo.sae.nn import KINDS
from matryo.sae.store import ShuffledBatches, open_activations
from matryo.sae.train import Checkpoints, Interrupted, TrainConfig, checkpoint, train

STEPS = 13
CONFIG = TrainConfig(steps=STEPS, lr=5e-3, dead_after=150, checkpoint_every=4, log_every=3)
CALIBRATION = batches(1, 200, seed=9)


def family(d_out: int | None = None) -> dict:
    """Every kind with every sort of levels, with dead latents for the auxiliary loss to work on."""
    saes = {
        f"{kind} {levels}": make(kind, levels=levels, seed=i, d_out=d_out)
        for i, (kind, levels) in enumerate((k, lv) for k in KINDS for lv in ("none", "nested", "sampled"))
    }
    for sae in saes.values():
        with torch.no_grad():
            sae.b_enc[::7] = -30.0
    return saes


class Pairs:
    """Pairs (x, target), begun anew each time."""

    def __iter__(self):
        for x in batches(5, 71):
            yield x, x[:, :6] * 2 - 1


def one_time():
    """A generator, made anew for each session."""
    yield from batches(STEPS, 71)


SOURCES = {
    "store": (lambda: ShuffledBatches(open_activations(planted(410)), "train", 71, seed=3), None),
    "list": (lambda: batches(5, 71), None),
    "pairs": (Pairs, 6),
    "one-time": (one_time, None),
}


def stop_after(step: int):
    calls = iter(range(1, 10_000))
    return lambda: next(calls) == step


def session(saes, source, folder: Path, stop: int | None = None, config: TrainConfig = CONFIG):
    """Begin, or go on with, a run; None when it was stopped."""
    lines: list[dict[str, float]] = []
    try:
        result = train(
            saes,
            source,
            config,
            calibration=CALIBRATION,
            checkpoints=Checkpoints(folder),
            resume=True,
            on_step=lambda step, numbers: lines.append({"step": step, **numbers}),
            should_stop=stop_after(stop) if stop else lambda: False,
        )
    except Interrupted:
        return None, lines
    return result, lines


def all_same(a: dict, b: dict) -> bool:
    return all(same(weights(a[name]), weights(b[name])) for name in a)


@pytest.mark.parametrize("kind", SOURCES)
def test_stopped_anywhere_it_ends_with_the_same_bits(kind, tmp_path):
    source, d_out = SOURCES[kind]

    def some() -> dict:
        saes = family(d_out)
        return (
            saes if kind == "store" else {name: saes[name] for name in ("relu none", "topk sampled", "jumprelu nested")}
        )

    whole = some()
    reference, lines = session(whole, source(), tmp_path / "whole")
    assert reference is not None
    assert {line["step"] for line in lines} == {3, 6, 9, 12, 13} and lines[-1]["relu none/dead"] > 0
    for stop in (1, 4, 6, 12):
        folder = tmp_path / str(stop)
        stopped, before = session(some(), source(), folder, stop=stop)
        assert stopped is None and [path.name for path in folder.iterdir()] == [f"step-{stop:08d}"]
        resumed = some()
        result, after = session(resumed, source(), folder)
        assert all_same(resumed, whole), stop
        assert before + after == lines
        assert replace(result, seconds=0) == replace(reference, seconds=0)


def test_stopped_after_every_step(tmp_path):
    whole, source = family(), SOURCES["store"][0]
    session(whole, source(), tmp_path / "whole")
    for _ in range(STEPS - 1):
        assert session(family(), source(), tmp_path / "again", stop=1)[0] is None
    resumed = family()
    result, _ = session(resumed, source(), tmp_path / "again")
    assert result is not None and all_same(resumed, whole)


def test_killed_between_checkpoints_it_goes_on_from_the_last(tmp_path):
    """No time to write anything: an exception from within a step stands for kill -9."""
    whole = family()
    session(whole, batches(5, 71), tmp_path / "whole")
    for died_at in (3, 4, 7, 13):
        asked = stop_after(died_at)

        def die(asked=asked):
            if asked():
                raise SystemExit
            return False

        folder = tmp_path / str(died_at)
        with pytest.raises(SystemExit):
            train(family(), batches(5, 71), CONFIG, checkpoints=Checkpoints(folder), should_stop=die)
        kept = sorted(path.name for path in folder.glob("*"))
        assert kept == ([f"step-{(died_at - 1) // 4 * 4:08d}"] if died_at > 4 else [])
        resumed = family()
        session(resumed, batches(5, 71), folder)
        assert all_same(resumed, whole), died_at


def test_stopped_after_the_last_step_it_is_finished(tmp_path):
    whole, other = family(), family()
    session(whole, batches(5, 71), tmp_path / "whole")
    result, _ = session(other, batches(5, 71), tmp_path / "other", stop=STEPS)
    assert result is not None and all_same(whole, other)
    # Killed between the last checkpoint and the end of the run.
    again = family()
    result, lines = session(again, batches(5, 71), tmp_path / "other")
    assert result is not None and result.last.keys() == whole.keys() and lines == [] and all_same(again, whole)


def test_a_source_that_knows_where_it_is_is_not_replayed(tmp_path):
    class Remembering(Counting):
        def state(self):
            return {"read": self.read}

        def restore(self, state):
            self.read, self.items = state["read"], self.items[state["read"] % 5 :]

    class Forgetting(Counting): ...

    for kind, read in ((Remembering, STEPS), (Forgetting, STEPS)):
        session({"a": make()}, kind(batches(5, 71)), tmp_path / kind.__name__, stop=7)
        source = kind(batches(5, 71))
        session({"a": make()}, source, tmp_path / kind.__name__)
        assert source.read == read
        assert source.begun == (2 if kind is Remembering else 3)


def test_a_replayed_source_that_is_too_short(tmp_path):
    session({"a": make()}, one_time(), tmp_path, stop=7)
    with pytest.raises(ValueError, match=r"the batches end at 3; expected at least 7: resume on the same data"):
        session({"a": make()}, iter(batches(3, 71)), tmp_path)


def test_what_is_resumed_need_not_be_fresh(tmp_path):
    """The weights given to a resumed run do not matter."""
    whole, resumed = {"a": make()}, {"a": make()}
    session(whole, batches(5, 71), tmp_path / "whole")
    session({"a": make()}, batches(5, 71), tmp_path / "a", stop=6)
    with torch.no_grad():
        for parameter in resumed["a"].parameters():
            parameter.normal_()
    session(resumed, batches(5, 71), tmp_path / "a")
    assert all_same(whole, resumed)


def test_without_resume_a_new_run_begins(tmp_path):
    session({"a": make()}, batches(5, 71), tmp_path, stop=6)
    steps = []
    train(
        {"a": make()},
        batches(5, 71),
        replace(CONFIG, log_every=1),
        checkpoints=Checkpoints(tmp_path),
        on_step=lambda step, numbers: steps.append(step),
    )
    assert steps == list(range(1, STEPS + 1))
    assert [path.name for path in tmp_path.iterdir()] == [f"step-{STEPS:08d}"]


# What does not fit -----------------------------------------------------------------------------------------------


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
    assert make().config.d_in == D_IN
