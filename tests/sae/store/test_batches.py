"""Shuffled batches: each row at most once a pass, another order every pass, and going on from any point."""

import numpy as np
import pytest
import torch
from tests.sae.store.cases import FIRST, TRAIN, tokens_of, write_store

from matryo.sae.store import ArrayActivations, ShuffledBatches, batches, in_order, open_activations
from matryo.sae.store.batches import shuffled_order

BATCH = 23


@pytest.fixture(params=["store", "array", "one chunk"])
def table(request, tmp_path, monkeypatch):
    """A store read through several windows of several chunks, an array, and a store of a single chunk."""
    if request.param != "one chunk":
        monkeypatch.setattr(batches, "CHUNK", 31)
        monkeypatch.setattr(batches, "WINDOW", 150)
    return ArrayActivations(tokens_of("train")) if request.param == "array" else write_store(tmp_path)


def ids(found) -> list[int]:
    return torch.cat(list(found))[:, 0].int().tolist()


def test_a_pass_gives_every_row_at_most_once_and_all_but_a_remainder(table):
    source = ShuffledBatches(table, "train", BATCH, seed=1)
    rows = table.gather("train", table.rows("train")).float()
    of = {int(row[0]): row for row in rows}
    for _ in range(3):
        found = list(source)
        assert len(found) == len(source) == len(rows) // BATCH
        assert all(batch.shape == (BATCH, rows.shape[1]) and batch.dtype == torch.float32 for batch in found)
        given = ids(found)
        assert len(set(given)) == len(given)
        assert all(torch.equal(row, of[int(row[0])]) for batch in found for row in batch)


def test_passes_differ_and_leave_out_other_rows(table):
    source = ShuffledBatches(table, "train", BATCH, seed=1)
    passes = [ids(source) for _ in range(4)]
    everything = set(ids([table.gather("train", table.rows("train"))]))
    left = [everything - set(given) for given in passes]
    assert len({tuple(given) for given in passes}) == 4
    assert len({frozenset(rest) for rest in left}) > 1 and all(0 < len(rest) < BATCH for rest in left)
    # Batches do not stay together either.
    together = [{frozenset(given[i : i + BATCH]) for i in range(0, len(given), BATCH)} for given in passes]
    assert not together[0] & together[1]


@pytest.mark.parametrize("table", ["array", "store"], indirect=True)
def test_other_rows_meet_in_a_window_in_every_pass(table):
    """What is mixed in memory is a window: rows that always shared one would only ever meet each other."""
    orders = [shuffled_order(table, "train", 3, number, 31) for number in range(3)]
    windows = [{frozenset(order[i : i + 150].tolist()) for i in range(0, len(order), 150)} for order in orders]
    assert not windows[0] & windows[1] and not windows[1] & windows[2]


def test_order_depends_on_the_seed_only(table):
    one, same, other = (ShuffledBatches(table, "train", BATCH, seed=s) for s in (1, 1, 2))
    first, second = ids(one), ids(one)
    assert (ids(same), ids(same)) == (first, second)
    assert ids(other) not in (first, second)


@pytest.mark.parametrize("table", ["array", "store"], indirect=True)
def test_order_is_random(table):
    """Neighbours in a pass are not neighbours on disk."""
    found = torch.tensor(ids(ShuffledBatches(table, "train", BATCH, seed=1))).double()
    at = {int(row[0]): i for i, row in enumerate(table.gather("train", table.rows("train")))}
    slot = torch.tensor([at[int(number)] for number in found]).double()
    for a, b in ((slot[1:], slot[:-1]), (slot, torch.arange(len(slot)).double())):
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.35  # windows of five chunks, not the whole
    assert int((slot.diff().abs() == 1).sum()) < len(slot) / 10


def test_restored_at_every_point_it_goes_on_as_if_nothing_had_been(table):
    whole = ShuffledBatches(table, "train", BATCH, seed=4)
    length = len(whole)
    expected = [batch for _ in range(2) for batch in whole]
    for stop in range(2 * length + 1):
        stopped = ShuffledBatches(table, "train", BATCH, seed=4)
        iterator = iter(stopped)
        for _ in range(stop):
            if next(iterator, None) is None:
                iterator = iter(stopped)
                next(iterator)
        resumed = ShuffledBatches(table, "train", BATCH, seed=4)
        resumed.restore(stopped.state())
        rest = list(resumed)
        if stop <= length:
            rest += list(resumed)
        assert len(rest) == 2 * length - stop, stop
        assert all(torch.equal(a, b) for a, b in zip(rest, expected[stop:], strict=True)), stop


def test_state_is_plain_and_moves_with_the_batches(table):
    source = ShuffledBatches(table, "train", BATCH, seed=4)
    assert source.state() == {"pass": 0, "given": 0}
    next(iter(source))
    assert source.state() == {"pass": 0, "given": 1}
    list(source)
    assert source.state() == {"pass": 1, "given": 0}


def test_resuming_does_not_read_what_came_before(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "CHUNK", 31)
    monkeypatch.setattr(batches, "WINDOW", 150)
    table = write_store(tmp_path)
    source = ShuffledBatches(table, "train", BATCH, seed=4)
    source.restore({"pass": 3, "given": len(source) - 2})
    read = []
    gather = table.gather
    monkeypatch.setattr(table, "gather", lambda split, index: read.append(len(index)) or gather(split, index))
    assert len(list(source)) == 2
    assert sum(read) <= 2 * 150


@pytest.mark.parametrize("size", [0, -1, TRAIN - 101 + 1])
def test_batch_sizes_that_cannot_be(tmp_path, size):
    with pytest.raises(ValueError, match=rf"batch size is {size}; expected 1 to 1,136, the rows of the train split"):
        ShuffledBatches(write_store(tmp_path), "train", size)


def test_the_largest_batch_is_the_whole_split(tmp_path):
    table = write_store(tmp_path)
    for split, rows in (("train", 1136), ("calibration", 101), ("heldout", 311)):
        found = list(ShuffledBatches(table, split, rows))
        assert len(found) == 1 and sorted(ids(found)) == sorted(ids(in_order(table, split, 40)))


def test_in_order_gives_all_of_a_split_in_stored_order(tmp_path):
    table = write_store(tmp_path)
    for size in (1, 97, 100, 5_000):
        found = list(in_order(table, "calibration", size))
        assert [len(batch) for batch in found[:-1]] == [size] * (len(found) - 1)
        assert ids(found) == ids([table.gather("calibration", np.arange(101))])


def test_both_kinds_of_tables_tell_their_scale(tmp_path):
    for table in (write_store(tmp_path), open_activations(tokens_of("train"))):
        assert (
            ShuffledBatches(table, "train", 5).scale == table.scale == pytest.approx(5**0.5 / (FIRST + 620), rel=0.01)
        )


def test_every_row_of_a_split_is_in_the_order_of_a_pass(table):
    for split in ("train", "calibration", "heldout"):
        order = shuffled_order(table, split, 3, 7, 31)
        assert sorted(order) == sorted(table.rows(split))


@pytest.mark.parametrize("rows", [150, 151, 160, 172, 173, 300, 301])
def test_no_batch_is_empty_whatever_is_left_in_the_last_window(rows, monkeypatch):
    monkeypatch.setattr(batches, "WINDOW", 150)
    table = ArrayActivations(tokens_of("train", rows + 2 * (rows // 18)), heldout=1 / 20)
    assert len(table.rows("train")) == rows
    for size in (1, 15, 23, 25, 50, 75, 149, 150):
        assert {len(batch) for batch in ShuffledBatches(table, "train", size)} == {size}


def test_in_order_reads_some_rows_evenly_spread_where_there_are_more(table):
    everything = torch.cat(list(in_order(table, "train", 50)))
    some = list(in_order(table, "train", 50, most=120))
    assert [len(batch) for batch in some] == [50, 50, 20]
    at = np.linspace(0, len(everything) - 1, 120).round().astype(int)
    assert torch.equal(torch.cat(some), everything[at])
    assert torch.equal(torch.cat(list(in_order(table, "train", 50, most=10**6))), everything)
