"""A run that stops goes on, and ends with the same bits as one that did not."""

from dataclasses import replace

import pytest
import torch
from tests.sae.train.cases import Counting, batches, make, planted
from tests.sae.train.sessions import CONFIG, STEPS, all_same, family, session, stop_after

from matryo.sae.store import ShuffledBatches, open_activations
from matryo.sae.train import Checkpoints, Interrupted, train


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


def test_moments_in_bfloat16_are_resumed_as_they_were(tmp_path):
    short = replace(CONFIG, moments="bfloat16")
    saes = [{"a": make("topk", levels="nested")} for _ in range(3)]
    train(saes[0], batches(5, 71), short, checkpoints=Checkpoints(tmp_path / "whole"))
    stop = stop_after(7)
    with pytest.raises(Interrupted):
        train(saes[1], batches(5, 71), short, checkpoints=Checkpoints(tmp_path / "a"), should_stop=stop)
    train(saes[2], batches(5, 71), short, checkpoints=Checkpoints(tmp_path / "a"), resume=True)
    assert all_same(saes[0], saes[2])
    with pytest.raises(ValueError, match=r"moments is bfloat16 for a gated SAE in torch.float32 on cpu; expected"):
        train({"a": make("gated")}, batches(5, 71), short)
