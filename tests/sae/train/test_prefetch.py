"""Reading ahead changes nothing but the waiting."""

import itertools
import threading
import time

import pytest
import torch
from tests.sae.store.cases import write_store
from tests.sae.train.cases import batches, make, planted, same, weights
from tests.sae.train.sessions import STEPS, all_same, session

from matryo.sae.store import ShuffledBatches, open_activations
from matryo.sae.store import batches as reading
from matryo.sae.store.batches import shuffled_order
from matryo.sae.train import TrainConfig, train
from matryo.sae.train.batches import BatchSource
from matryo.sae.train.prefetch import Prefetched


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert threads() == []


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "matryo-prefetch"]


class Again:
    """Pairs, begun anew each time, without `state()`."""

    def __iter__(self):
        for x in batches(5, 31):
            yield x, x[:, :6]


def store() -> ShuffledBatches:
    return ShuffledBatches(open_activations(planted(310)), "train", 31, seed=3)


SOURCES = {"store": store, "list": lambda: batches(5, 31), "anew": Again, "one-time": lambda: iter(batches(5, 31))}


def taken(source, most: int = 40) -> list:
    found = itertools.takewhile(lambda batch: batch is not None, (source.take() for _ in range(most)))
    return [tuple(part for part in batch if part is not None) for batch in found]


def equal(a: list, b: list) -> bool:
    return len(a) == len(b) and all(len(x) == len(y) and all(map(torch.equal, x, y)) for x, y in zip(a, b, strict=True))


def wait_until(true) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("ahead", [0, 1, 2, 7])
@pytest.mark.parametrize("kind", SOURCES)
def test_batches_and_states_are_those_of_the_source(kind, ahead):
    plain = BatchSource(SOURCES[kind]())
    with Prefetched(BatchSource(SOURCES[kind]()), ahead) as source:
        assert source.state() == plain.state()
        for _ in range(23):
            ours, theirs = source.take(), plain.take()
            assert (ours is None) == (theirs is None)
            assert ours is None or equal([ours[:1]], [theirs[:1]])
            # The thread may be anywhere ahead; the state is that of the last batch given.
            assert source.state() == plain.state()
            if ahead and ours is not None:
                wait_until(lambda: len(source._ready) == ahead or not source._running)
                assert source.state() == plain.state()


@pytest.mark.parametrize("kind", SOURCES)
def test_restored_it_gives_what_is_left(kind):
    whole = taken(BatchSource(SOURCES[kind]()), 13)
    for stop in (0, 1, 3, 5) if kind == "one-time" else (0, 1, 5, 11):
        with Prefetched(BatchSource(SOURCES[kind]()), 2) as source:
            assert equal(taken(source, stop), whole[:stop])
            state = source.state()
        assert source.state() == state  # after closing too
        with Prefetched(BatchSource(SOURCES[kind]()), 2) as source:
            source.restore(state)
            assert source.state() == state
            assert equal(taken(source, 13 - stop), whole[stop:])
            with pytest.raises(ValueError, match="a batch was taken already"):
                source.restore(state)


class Watched:
    """Counts what is read, and in which thread."""

    def __init__(self, items) -> None:
        self.items, self.read, self.where = items, 0, set()

    def __iter__(self):
        for item in self.items:
            self.read += 1
            self.where.add(threading.current_thread().name)
            yield item


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_no_more_is_read_than_is_bounded(ahead):
    watched = Watched(batches(12, 31))
    with Prefetched(BatchSource(watched), ahead, limit=9) as source:
        assert watched.read == 0
        for given in range(1, 9):
            assert source.take() is not None
            wait_until(lambda given=given: watched.read == min(given + ahead, 9))
            time.sleep(0.005)
            assert watched.read == min(given + ahead, 9)
        assert watched.where == {"matryo-prefetch"}
        assert source.take() is not None and watched.read == 9
        wait_until(lambda: not threads())
        # Whoever asks for more than was announced is not refused.
        assert source.take() is not None and watched.read == 10
        assert source.state() == {"given": 10}


def test_a_one_time_iterator_keeps_what_training_did_not_ask_for():
    class Lasting:
        read_ahead = 3

        def __init__(self) -> None:
            self.items = iter(batches(12, 31))

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.items)

    source = Lasting()
    train(make(), source, TrainConfig(steps=7))
    assert len(list(source)) == 5


def failing(error, at: int):
    yield from batches(5, 31)[:at]
    raise error


@pytest.mark.parametrize("ahead", [1, 2, 5])
@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("error", [OSError("the disk is gone"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_comes_where_it_belongs_after_all_earlier_batches(error, at, ahead):
    with Prefetched(BatchSource(failing(error, at)), ahead) as source:
        assert equal(taken(source, at), [(x,) for x in batches(5, 31)[:at]])
        state = source.state()
        for _ in range(3):
            with pytest.raises(type(error)) as met:
                source.take()
            assert met.value is error and source.state() == state == {"given": at}


def test_rows_that_are_not_finite_are_named_where_they_are(tmp_path):
    damaged = batches(6, 31)
    damaged[4][17, 3] = float("nan")
    with Prefetched(BatchSource(damaged), 2) as source:
        assert len(taken(source, 4)) == 4
        with pytest.raises(ValueError, match="row 17 of batch 4 is NaN or infinite"):
            source.take()
    damaged = type("Slow", (list,), {"read_ahead": 2})(damaged)
    assert session({"a": make()}, batches(6, 31)[:4], tmp_path / "whole", stop=4)[0] is None
    with pytest.raises(ValueError, match="row 17 of batch 4 is NaN or infinite"):
        session({"a": make()}, damaged, tmp_path / "broken")
    # What was learned of the batches before is in the checkpoint.
    whole, broken = (session({"a": make()}, batches(6, 31), tmp_path / name) for name in ("whole", "broken"))
    assert whole[1] == broken[1] and whole[0].last == broken[0].last


def test_a_shard_altered_under_way_is_named_where_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", 31)
    monkeypatch.setattr(reading, "WINDOW", 93)
    plain = write_store(tmp_path)
    expected = list(itertools.islice(ShuffledBatches(plain, "train", 23, seed=5), 30))
    # The shard that the pass comes to last.
    shards = shuffled_order(plain, "train", 5, 0, 31) // 97
    last = max(range(12), key=lambda shard: int((shards == shard).argmax()))
    damaged = tmp_path / f"train-{last:05d}.bin"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    results = []
    for ahead in (0, 2):
        table = open_activations(tmp_path)
        found = []
        with (
            Prefetched(BatchSource(ShuffledBatches(table, "train", 23, seed=5)), ahead) as source,
            pytest.raises(ValueError, match=rf"{damaged.name} was altered") as error,
        ):
            while True:
                found.append(source.take()[0])
        assert 0 < len(found) < 30 and equal([(x,) for x in found], [(x,) for x in expected[: len(found)]])
        results.append((len(found), str(error.value)))
    assert results[0] == results[1]


def test_the_thread_ends_with_whatever_ends_the_block():
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), Prefetched(BatchSource(batches(5, 31)), 2) as source:
            source.take()
            assert threads()
            raise error
        assert not threads()
        with pytest.raises(ValueError, match="this source is closed"):
            source.take()
        source.close()


def test_closing_waits_for_a_batch_that_is_being_read():
    begun, go_on = threading.Event(), threading.Event()

    def slow():
        yield from batches(1, 31)
        begun.set()
        go_on.wait(20)
        yield from batches(4, 31)

    watched = Watched(slow())
    source = Prefetched(BatchSource(watched), 2)
    source.take()
    begun.wait(20)
    threading.Timer(0.05, go_on.set).start()
    source.close()
    assert go_on.is_set() and watched.read == 2 and not threads()


@pytest.mark.parametrize("kind", ["store", "list"])
def test_training_reads_ahead_and_ends_with_the_same_bits(kind, tmp_path):
    """Stopped anywhere, with and without reading ahead by turns."""

    def source(ahead: int):
        found = store() if kind == "store" else type("Items", (list,), {})(batches(5, 71))
        found.read_ahead = ahead
        return found

    def some() -> dict:
        return {name: make(name, levels="sampled") for name in ("topk", "jumprelu")}

    whole = some()
    _, lines = session(whole, source(0), tmp_path / "whole")
    for ahead in (1, 6):
        other = some()
        assert session(other, source(ahead), tmp_path / f"ahead-{ahead}")[1] == lines and all_same(other, whole)
    for stop, ahead in ((1, 2), (4, 0), (3, 5)):
        assert session(some(), source(ahead), tmp_path / "again", stop=stop)[0] is None
    resumed = some()
    result, _ = session(resumed, source(2), tmp_path / "again")
    assert result is not None and result.steps == STEPS and all_same(resumed, whole)


def test_only_sources_that_say_so_are_read_in_a_thread():
    watched = Watched(batches(4, 31))
    train(make(), watched, TrainConfig(steps=4))
    assert watched.where == {"MainThread"}
    saying = Watched(batches(4, 31))
    saying.read_ahead = 1
    other, same_one = make(), make()
    train(other, saying, TrainConfig(steps=4))
    train(same_one, batches(4, 31), TrainConfig(steps=4))
    assert saying.where == {"matryo-prefetch"} and saying.read == 4
    assert same(weights(other), weights(same_one))


def test_ahead_is_checked():
    with pytest.raises(ValueError, match="read_ahead is -1; expected 0 or more batches"):
        Prefetched(BatchSource([]), -1)
