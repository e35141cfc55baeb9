"""Writing: every token once, in a place drawn from the whole store, with an honest manifest."""

import math

import numpy as np
import pytest
import torch
from tests.sae.store.cases import D_IN, FIRST, HELDOUT, LAYOUT, TRAIN, folder_bytes, stored, tokens_of, write_store

from matryo.sae.store import ActivationStore, StoreConfig, StoreWriter, in_order
from matryo.sae.store.layout import slots_of


def test_every_token_is_stored_once_and_nothing_else(tmp_path):
    store = write_store(tmp_path)
    train, calibration, heldout = (stored(store, split) for split in ("train", "calibration", "heldout"))
    assert len(calibration) == LAYOUT.calibration_tokens
    assert len(train) == TRAIN - LAYOUT.calibration_tokens
    for given, found in (("train", torch.cat([train, calibration])), ("heldout", heldout)):
        order = found[:, 0].argsort()
        assert torch.equal(found[order], tokens_of(given))


def test_the_slot_of_a_token_is_the_one_the_layout_says(tmp_path):
    store = write_store(tmp_path)
    slots = slots_of(TRAIN, LAYOUT.seed, "train").astype(np.int64)
    assert sorted(slots) == list(range(TRAIN))
    everything = torch.cat([stored(store, "train"), stored(store, "calibration")])
    assert torch.equal(everything[torch.from_numpy(slots)], tokens_of("train"))


def test_chunks_do_not_matter(tmp_path):
    whole, pieces = write_store(tmp_path / "a", chunk=TRAIN), write_store(tmp_path / "b", chunk=13)
    a, b = folder_bytes(whole.folder), folder_bytes(pieces.folder)
    assert a == b and len(a) == 2 + 12 + 2 + 4  # manifest and journal, shards of 97 rows of 1136, 101 and 311


def test_the_whole_store_is_shuffled(tmp_path):
    """Token number and slot are independent, across shards and within each."""
    train = tokens_of("train", 6_007)
    store = write_store(tmp_path, StoreConfig(dtype="float32", shard_rows=700, calibration_tokens=600), train=train)
    token = stored(store, "train")[:, 0].double() - FIRST
    slot = torch.arange(len(token)).double()
    limit = 4 / math.sqrt(len(token))
    assert abs(float(torch.corrcoef(torch.stack([token, slot]))[0, 1])) < limit
    assert abs(float(torch.corrcoef(torch.stack([token[1:], token[:-1]]))[0, 1])) < limit
    for shard in token.split(700):
        tenths = torch.histc(shard, bins=10, min=0, max=len(train))
        expected = len(shard) / 10
        assert float(((tenths - expected) ** 2 / expected).sum()) < 33.7  # chi², 9 degrees of freedom, p = 1e-4
    calibration = stored(store, "calibration")[:, 0] - FIRST
    assert float(torch.histc(calibration, bins=10, min=0, max=len(train)).min()) > 20


def test_another_seed_is_another_order_of_the_same(tmp_path):
    one = write_store(tmp_path / "a", StoreConfig(dtype="float32", calibration_tokens=101, seed=1))
    two = write_store(tmp_path / "b", StoreConfig(dtype="float32", calibration_tokens=101, seed=2))
    a, b = (torch.cat([stored(s, "train"), stored(s, "calibration")])[:, 0] for s in (one, two))
    assert not torch.equal(a, b) and torch.equal(a.sort().values, b.sort().values)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_values_are_rounded_once_to_the_stores_format(tmp_path, dtype):
    values = torch.randn(407, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 100
    config = StoreConfig(dtype=dtype, shard_rows=100, outlier_ratio=0)
    store = write_store(tmp_path, config, train=values, heldout=values[:0])
    rows = torch.cat([*in_order(store, "train", 50), *in_order(store, "calibration", 50)])
    slots = torch.from_numpy(slots_of(407, config.seed, "train").astype(np.int64))
    assert rows.dtype == torch.float32
    assert torch.equal(rows[slots], values.to(getattr(torch, dtype)).float())
    assert torch.equal(stored(store, "train"), torch.cat(list(in_order(store, "train", 64))))
    assert sum(p.stat().st_size for p in tmp_path.glob("*.bin")) == 407 * 7 * (4 if dtype == "float32" else 2)


@pytest.mark.parametrize(
    ("dtype", "value", "why"),
    [
        ("float16", 70_000.0, "too large for float16"),
        ("float32", math.nan, "NaN or infinite"),
        ("float16", math.inf, "NaN or infinite"),
        ("bfloat16", -math.inf, "NaN or infinite"),
    ],
)
def test_values_that_do_not_fit_are_an_error_naming_the_token(tmp_path, dtype, value, why):
    writer = StoreWriter(tmp_path, {"train": 200, "heldout": 20}, D_IN, StoreConfig(dtype=dtype))
    values = tokens_of("train", 50)
    writer.write("train", 0, values)
    values[17, 3] = value
    with pytest.raises(ValueError, match=f"token 67 of the train split .* {why}; .*dtype") as error:
        writer.write("train", 50, values)
    assert "\n" not in str(error.value)
    assert writer.done("train") == 50


def test_mean_and_scale_are_those_of_the_training_split(tmp_path):
    store = write_store(tmp_path)
    rows = stored(store, "train").double()
    assert torch.allclose(torch.tensor(store.manifest["mean"], dtype=torch.float64), rows.mean(0), rtol=1e-12)
    assert float((rows * store.scale).square().sum(1).mean()) == pytest.approx(D_IN, rel=1e-6)
    assert store.manifest["median_norm"] == pytest.approx(float(rows.norm(dim=1).sort().values[(len(rows) - 1) // 2]))


def test_outliers_are_stored_but_not_given_and_not_counted(tmp_path):
    train, heldout = (torch.randn(n, D_IN, generator=torch.Generator().manual_seed(n)) for n in (TRAIN, HELDOUT))
    train[[3, 500, 1236]] *= 1e3
    heldout[7] *= 1e3
    config = StoreConfig(dtype="float32", shard_rows=97, calibration_tokens=101, seed=1)
    store = write_store(tmp_path, config, train=train, heldout=heldout)
    sizes = {split: len(outliers) for split, outliers in store.manifest["outliers"].items()}
    assert sizes["train"] + sizes["calibration"] == 3 and sizes["heldout"] == 1
    assert len(stored(store, "train")) + len(stored(store, "calibration")) == TRAIN
    given = {split: torch.cat(list(in_order(store, split, 64))) for split in ("train", "calibration", "heldout")}
    assert len(given["train"]) + len(given["calibration"]) == TRAIN - 3 and len(given["heldout"]) == HELDOUT - 1
    assert all(float(rows.norm(dim=1).max()) < 20 for rows in given.values())
    rows = given["train"].double()
    assert torch.allclose(torch.tensor(store.manifest["mean"], dtype=torch.float64), rows.mean(0), rtol=1e-9)
    assert store.scale == pytest.approx(math.sqrt(D_IN / float(rows.square().sum(1).mean())))


def test_outliers_are_kept_when_the_ratio_is_0(tmp_path):
    train = torch.randn(300, D_IN, generator=torch.Generator().manual_seed(2))
    train[5] *= 1e3
    config = StoreConfig(dtype="float32", calibration_tokens=10, outlier_ratio=0)
    store = write_store(tmp_path, config, train=train)
    assert sum(len(store.rows(split)) for split in ("train", "calibration")) == 300
    assert store.manifest["outliers"] == {"train": [], "calibration": [], "heldout": []}


@pytest.mark.parametrize(("train", "calibration"), [(1237, 101), (900, 90), (19, 1)])
def test_calibration_takes_at_most_a_tenth(tmp_path, train, calibration):
    store = write_store(tmp_path, train=tokens_of("train", train))
    assert {split: len(store.rows(split)) for split in ("train", "calibration", "heldout")} == {
        "train": train - calibration,
        "calibration": calibration,
        "heldout": HELDOUT,
    }


def test_a_calibration_split_of_its_own_leaves_the_training_split_whole(tmp_path):
    counts = {"train": 407, "heldout": 53, "calibration": 97}
    writer = StoreWriter(tmp_path, counts, D_IN, LAYOUT)
    given = {split: tokens_of("train", count) + 1_000 * i for i, (split, count) in enumerate(counts.items())}
    for split, values in given.items():
        writer.write(split, 0, values[:50])
        writer.write(split, 50, values[50:])
    with pytest.raises(ValueError, match=r"tokens 97 to 98 of the calibration split .* end by 97"):
        writer.write("calibration", 97, given["calibration"][:1])
    writer.finish({})
    store = ActivationStore(tmp_path)
    assert {split: len(store.rows(split)) for split in counts} == counts
    for split, values in given.items():
        slots = torch.from_numpy(slots_of(len(values), LAYOUT.seed, split).astype(np.int64))
        assert torch.equal(stored(store, split)[slots], values)


def test_the_manifest_says_what_it_is_of(tmp_path):
    store = write_store(tmp_path, about={"lm": {"name": "x"}, "site": "blocks.1.resid_pre"})
    assert store.identity() == {"lm": {"name": "x"}, "site": "blocks.1.resid_pre"}
    assert store.manifest["rows"] == {"train": TRAIN - 101, "calibration": 101, "heldout": HELDOUT}
    assert store.manifest["dtype"] == "float32" and store.manifest["d_in"] == D_IN


def test_tokens_out_of_order_or_missing_are_refused(tmp_path):
    writer = StoreWriter(tmp_path, {"train": 100, "heldout": 20}, D_IN, LAYOUT)
    values = tokens_of("train", 100)
    writer.write("train", 0, values[:40])
    with pytest.raises(ValueError, match=r"tokens 50 to 100 of the train split .* start at 40 or before"):
        writer.write("train", 50, values[50:])
    with pytest.raises(ValueError, match=r"tokens 40 to 140 .* end by 100"):
        writer.write("train", 40, values)
    with pytest.raises(ValueError, match="40 tokens of the train split were written; expected 100"):
        writer.finish({})
    assert not (tmp_path / "store.json").exists()
    writer.write("train", 30, values[30:])
    with pytest.raises(ValueError, match="0 tokens of the heldout split were written; expected 20"):
        writer.finish({})


def test_shards_larger_than_the_pieces_they_are_measured_in(tmp_path, monkeypatch):
    whole = write_store(tmp_path / "a", StoreConfig(dtype="float32", calibration_tokens=101))
    monkeypatch.setattr("matryo.sae.store.writer.MEASURED_ROWS", 37)
    pieces = write_store(tmp_path / "b", StoreConfig(dtype="float32", calibration_tokens=101))
    assert pieces.scale == whole.scale and pieces.manifest["mean"] == pytest.approx(whole.manifest["mean"])


def test_a_store_of_zeros_is_refused(tmp_path):
    with pytest.raises(ValueError, match="all activations of the training split are 0"):
        write_store(tmp_path, train=torch.zeros(50, D_IN))


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("dtype", "float8", "unknown dtype 'float8': did you mean"),
        ("shard_rows", 0, "1 or more"),
        ("calibration_tokens", 0, "1 or more"),
        ("outlier_ratio", -1.0, "ratio above 1"),
        ("outlier_ratio", 0.5, "ratio above 1"),
        ("outlier_ratio", math.nan, "ratio above 1"),
    ],
)
def test_values_of_the_layout_are_checked(field, value, word):
    with pytest.raises(ValueError, match=word):
        StoreConfig(**{field: value})


def test_a_calibration_part_of_its_own_takes_nothing_from_training(tmp_path):
    parts = {"train": tokens_of("train"), "calibration": tokens_of("train", 57) + 5, "heldout": tokens_of("heldout")}
    writer = StoreWriter(tmp_path, {split: len(values) for split, values in parts.items()}, D_IN, LAYOUT)
    for split, values in parts.items():
        writer.write(split, 0, values)
    writer.finish({})
    store = ActivationStore(tmp_path)
    for split, values in parts.items():
        found = stored(store, split)
        assert torch.equal(found[found[:, 0].argsort()], values)


@pytest.mark.parametrize("apart", [False, True])
def test_token_order_gives_back_the_training_text(tmp_path, apart):
    parts = {"train": tokens_of("train"), "heldout": tokens_of("heldout")}
    parts |= {"calibration": tokens_of("train", 57)} if apart else {}
    writer = StoreWriter(tmp_path, {split: len(values) for split, values in parts.items()}, D_IN, LAYOUT)
    for split, values in parts.items():
        writer.write(split, 0, values)
    writer.finish({})
    found = list(ActivationStore(tmp_path).in_token_order(chunk=100))
    assert [first for first, _ in found] == list(range(0, TRAIN, 100))
    assert torch.equal(torch.cat([rows for _, rows in found]), parts["train"])


def test_token_order_leaves_out_position_0_where_a_store_has_it(tmp_path):
    """Whoever reads it numbers tokens over positions 1, 2, …; with BOS among them every passage would be another."""
    length = 7
    values = tokens_of("train")[: TRAIN // length * length]
    store = write_store(tmp_path, train=values, about={"skip_first": False, "row_length": length})
    found = list(store.in_token_order(chunk=100))
    expected = values.view(-1, length, D_IN)[:, 1:].reshape(-1, D_IN)
    assert [first for first, _ in found] == list(range(0, len(expected), 100))
    assert torch.equal(torch.cat([rows for _, rows in found]), expected)
