"""Reading a store, or what stands in its place: exact, and a one-line error for whatever is wrong with it."""

import hashlib
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.sae.store.cases import D_IN, LAYOUT, stored, write_store

from matryo.sae.store import (
    ActivationStore,
    ArrayActivations,
    StoreConfig,
    in_order,
    layout,
    open_activations,
    tables,
    writer,
)
from matryo.sae.store.layout import BLOCK_ROWS, manifest_digest


def refix(folder) -> None:
    """Make the manifest agree with the files, as if they had been written like this."""
    manifest = json.loads((folder / "store.json").read_text())
    for shards in manifest["shards"].values():
        for shard in shards:
            content = (folder / shard["file"]).read_bytes()
            size = len(content) // shard["rows"] * BLOCK_ROWS
            blocks = [content[start : start + size] for start in range(0, len(content), size)]
            shard["sha256"] = hashlib.sha256(content).hexdigest()
            shard["blocks"] = [hashlib.sha256(block).hexdigest() for block in blocks]
    rewrite(folder, manifest)


def rewrite(folder, manifest) -> None:
    (folder / "store.json").write_text(json.dumps(manifest | {"digest": manifest_digest(manifest)}))


def read_all(folder) -> None:
    store = open_activations(folder)
    for split in ("train", "calibration", "heldout"):
        list(in_order(store, split, 64))


def message(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# A store ---------------------------------------------------------------------------------------------------------


def test_gather_gives_the_rows_asked_for_in_that_order(tmp_path):
    store = write_store(tmp_path)
    rows = stored(store, "train")
    index = np.random.default_rng(0).permutation(store.rows("train"))[:500]
    index = np.concatenate([index, index[:3]])
    assert torch.equal(store.gather("train", index), rows[torch.from_numpy(index)])
    assert store.gather("train", index[:0]).shape == (0, D_IN)


def test_a_store_has_three_splits(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'test'"):
        write_store(tmp_path).rows("test")


def test_reading_leaves_the_files_alone(tmp_path):
    store = write_store(tmp_path)
    for batch in in_order(store, "train", 50):
        batch.zero_()
    store.gather("train", store.rows("train")).zero_()
    read_all(tmp_path)


@pytest.mark.parametrize("split", ["train", "calibration", "heldout"])
def test_a_shard_cut_short(tmp_path, split):
    write_store(tmp_path)
    path = tmp_path / f"{split}-00001.bin"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(
        ValueError, match=rf"{split}-00001.bin has [\d,]+ bytes; expected [\d,]+: .* harvest again"
    ) as error:
        ActivationStore(tmp_path)
    message(error)


def test_a_shard_altered(tmp_path):
    write_store(tmp_path)
    path = tmp_path / "train-00002.bin"
    content = bytearray(path.read_bytes())
    content[101] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"train-00002.bin was altered .* harvest again") as error:
        read_all(tmp_path)
    message(error)


def test_a_block_is_checked_when_it_is_first_read_and_no_other(tmp_path, monkeypatch):
    for module in (layout, tables, writer):
        monkeypatch.setattr(module, "BLOCK_ROWS", 10)
    manifest = write_store(tmp_path).manifest
    path = tmp_path / "train-00002.bin"
    rows = path.read_bytes()
    shard = manifest["shards"]["train"][2]
    assert shard["sha256"] == hashlib.sha256(rows).hexdigest()
    size = 10 * D_IN * 4
    assert shard["blocks"] == [hashlib.sha256(rows[i : i + size]).hexdigest() for i in range(0, len(rows), size)]
    assert len(shard["blocks"]) == 10
    content = bytearray(rows)
    content[93 * D_IN * 4] ^= 1  # in the last block, of seven rows
    path.write_bytes(bytes(content))
    store = ActivationStore(tmp_path)
    read = []
    real = tables.block_bytes
    monkeypatch.setattr(tables, "block_bytes", lambda block: read.append(len(block)) or real(block))
    first = 2 * 97
    good = np.array([5, 89, 13, 8, 5]) + first
    for _ in range(2):
        assert torch.equal(store.gather("train", good), stored(store, "train")[torch.from_numpy(good)])
        assert read == [10, 10, 10]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"train-00002.bin was altered .* harvest again"):
            store.gather("train", np.array([first + 90]))
    assert read[3:] == [7, 7]


def test_a_shard_missing(tmp_path):
    write_store(tmp_path)
    (tmp_path / "heldout-00003.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"heldout-00003.bin of the heldout split is missing") as error:
        ActivationStore(tmp_path)
    message(error)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_value_that_is_not_finite_is_named_by_shard_and_row(tmp_path, value, dtype):
    write_store(tmp_path, StoreConfig(dtype=dtype, shard_rows=97, calibration_tokens=101, seed=3))
    path = tmp_path / "train-00002.bin"
    rows = np.memmap(path, dtype=dtype, mode="r+", shape=(97, D_IN))
    rows[41, 2], rows[60, 0] = value, -value
    rows.flush()
    refix(tmp_path)
    with pytest.raises(ValueError, match=r"row 41 of .*train-00002.bin is NaN or infinite; .* harvest again") as error:
        read_all(tmp_path)
    message(error)


def test_a_manifest_of_another_format(tmp_path):
    manifest = write_store(tmp_path).manifest
    rewrite(tmp_path, manifest | {"format": 1})
    with pytest.raises(ValueError, match=r"store.json has format 1; expected 2: harvest again") as error:
        open_activations(tmp_path)
    message(error)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format": 1', '"x"'])
def test_a_manifest_that_is_none(tmp_path, text):
    write_store(tmp_path)
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(ValueError, match=r"store.json is damaged; expected a store's manifest") as error:
        open_activations(tmp_path)
    message(error)


@pytest.mark.parametrize("field", ["scale", "mean", "rows", "outliers", "d_in", "dtype", "about"])
def test_an_altered_manifest(tmp_path, field):
    manifest = dict(write_store(tmp_path).manifest)
    del manifest[field]
    (tmp_path / "store.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"store.json was altered since it was written"):
        open_activations(tmp_path)


def test_an_unfinished_store(tmp_path):
    write_store(tmp_path)
    (tmp_path / "store.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no store.json; expected a finished store: resume its harvest"):
        open_activations(tmp_path)


# Arrays ----------------------------------------------------------------------------------------------------------


def array(rows: int = 203, d_in: int = 7) -> torch.Tensor:
    return torch.randn(rows, d_in, generator=torch.Generator().manual_seed(9)) * 3


def check_array(found, values: torch.Tensor) -> None:
    """Every row in exactly one split, and the scale of all of them."""
    assert isinstance(found, ArrayActivations) and not found.shuffled
    index = np.concatenate([found.rows(split) for split in ("train", "calibration", "heldout")])
    assert sorted(index) == list(range(len(values)))
    assert len(found.rows("heldout")) == len(found.rows("calibration")) == max(1, len(values) // 20)
    assert found.d_in == values.shape[1]
    assert float((values.double() * found.scale).square().sum(1).mean()) == pytest.approx(values.shape[1])
    for split in ("train", "calibration", "heldout"):
        rows = torch.cat(list(in_order(found, split, 64)))
        assert rows.dtype == torch.float32
        assert torch.equal(rows, values[torch.from_numpy(found.rows(split))].float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_tensor(dtype):
    values = array().to(dtype)
    check_array(open_activations(values), values)


def test_rows_of_the_splits_come_from_everywhere():
    heldout = ArrayActivations(array(2_000)).rows("heldout")
    assert heldout.min() < 200 and heldout.max() > 1_800 and len(set(np.diff(heldout))) > 10


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_npy_file(tmp_path, dtype, order):
    values = np.asarray(array().numpy().astype(dtype), order=order)
    np.save(tmp_path / "acts.npy", values)
    before = (tmp_path / "acts.npy").read_bytes()
    found = open_activations(tmp_path / "acts.npy")
    check_array(found, torch.from_numpy(values.copy()))
    found.array.zero_()
    assert (tmp_path / "acts.npy").read_bytes() == before


def test_a_safetensors_file(tmp_path):
    one, two = array(), array(50, 3)
    save_file({"acts": one}, tmp_path / "one.safetensors")
    check_array(open_activations(tmp_path / "one.safetensors"), one)
    check_array(open_activations(f"{tmp_path}/one.safetensors#acts"), one)
    save_file({"layer.0": one, "layer.1": two}, tmp_path / "two.safetensors")
    check_array(open_activations(f"{tmp_path}/two.safetensors#layer.1"), two)
    with pytest.raises(
        ValueError, match=r"unknown tensor .*'layer.2': did you mean 'layer.[01]'\? .*two.safetensors#NAME"
    ):
        open_activations(f"{tmp_path}/two.safetensors#layer.2")
    with pytest.raises(ValueError, match=r"two.safetensors#NAME"):
        open_activations(tmp_path / "two.safetensors")


def test_a_sign_in_the_name_of_a_folder(tmp_path):
    folder = tmp_path / "run#3"
    folder.mkdir()
    np.save(folder / "acts.npy", array().numpy())
    save_file({"acts": array()}, folder / "acts.safetensors")
    for name in ("acts.npy", "acts.safetensors", "acts.safetensors#acts"):
        check_array(open_activations(f"{folder}/{name}"), array())
    write_store(folder / "store")
    assert isinstance(open_activations(folder / "store"), ActivationStore)


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was loaded')",)


def test_pickles_are_refused(tmp_path):
    np.save(tmp_path / "object.npy", np.array([[Trap()]], dtype=object), allow_pickle=True)
    (tmp_path / "renamed.npy").write_bytes(pickle.dumps(Trap()))
    torch.save(array(), tmp_path / "acts.pt")
    (tmp_path / "acts.pkl").write_bytes(pickle.dumps(Trap()))
    for name in ("object.npy", "renamed.npy", "acts.pt", "acts.pkl"):
        with pytest.raises(ValueError, match=rf"{name} .*no pickle") as error:
            open_activations(tmp_path / name)
        message(error)


BROKEN = {
    "one dimension": (torch.ones(30), "torch.float32 of shape .30,.; expected floating .rows, d_in."),
    "three dimensions": (torch.ones(30, 4, 2), "expected floating .rows, d_in."),
    "whole numbers": (torch.ones(30, 4, dtype=torch.int32), "torch.int32 of shape"),
    "two rows": (torch.ones(2, 4), "has 2 rows; expected at least 3"),
    "no rows": (torch.ones(0, 4), "has 0 rows; expected at least 3"),
    "zeros": (torch.zeros(30, 4), "all rows of .* are 0"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_tensors_that_are_none(what, tmp_path):
    values, why = BROKEN[what]
    save_file({"x": values}, tmp_path / "x.safetensors")
    for source in (values, tmp_path / "x.safetensors"):
        with pytest.raises(ValueError, match=why) as error:
            open_activations(source)
        message(error)


def test_a_row_that_is_not_finite_is_named(tmp_path):
    for value in (np.nan, np.inf):
        values = array().numpy()
        values[137, 4] = value
        np.save(tmp_path / "x.npy", values)
        with pytest.raises(ValueError, match=r"row 137 of .*x.npy is NaN or infinite; .*drop the row") as error:
            open_activations(tmp_path / "x.npy")
        message(error)


def test_files_that_are_none(tmp_path):
    np.save(tmp_path / "ints.npy", np.ones((9, 4), dtype=np.int64))
    np.save(tmp_path / "flat.npy", np.ones(9))
    np.save(tmp_path / "cut.npy", np.ones((99, 4)))
    with (tmp_path / "cut.npy").open("r+b") as file:
        file.truncate(500)
    (tmp_path / "head.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:20])
    (tmp_path / "empty.npy").touch()
    (tmp_path / "text.npy").write_text("not an array")
    np.savez(tmp_path / "many.npz", a=np.ones((9, 4)))
    (tmp_path / "many.npz").rename(tmp_path / "many.npy")
    save_file({"x": array()}, tmp_path / "cut.safetensors")
    with (tmp_path / "cut.safetensors").open("r+b") as file:
        file.truncate(500)
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "acts.csv").write_text("1,2")
    expected = {
        "ints.npy": "holds int64; expected one array of float16, float32 or float64",
        "flat.npy": r"shape \(9,\)",
        "cut.npy": "cannot be read .*expected a .npy file",
        "head.npy": "cannot be read .*expected a .npy file",
        "empty.npy": "cannot be read .*expected a .npy file",
        "text.npy": "cannot be read .*expected a .npy file",
        "many.npy": "holds several arrays",
        "cut.safetensors": "cannot be read .*expected a complete .safetensors file",
        "empty.safetensors": "cannot be read .*expected a complete .safetensors file",
        "acts.csv": "neither a store nor a .npy or .safetensors file",
        "ints.npy#x": "names the tensor 'x'; expected a .safetensors file",
    }
    for name, why in expected.items():
        with pytest.raises(ValueError, match=why) as error:
            open_activations(f"{tmp_path}/{name}")
        assert name in message(error)
    with pytest.raises(FileNotFoundError, match=r"nothing.npy does not exist; expected a store"):
        open_activations(tmp_path / "nothing.npy")


def test_identities_say_what_the_rows_are_of(tmp_path):
    assert open_activations(array()).identity() == {"array": "tensor", "shape": [203, 7], "dtype": "torch.float32"}
    assert write_store(tmp_path, LAYOUT, about={"lm": "x"}).identity() == {"lm": "x"}
