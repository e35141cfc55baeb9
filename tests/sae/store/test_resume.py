"""A harvest that dies at any moment goes on without losing or repeating a token."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.sae.store.cases import HELDOUT, LAYOUT, TRAIN, folder_bytes, tokens_of, write_store

from matryo.sae.store import ActivationStore, StoreConfig, StoreWriter, writer
from matryo.sae.store.layout import ShardFiles

CHUNK = 400
VALUES = {"train": tokens_of("train"), "heldout": tokens_of("heldout")}
ABOUT = {"lm": "none"}


class Killed(BaseException):
    """The process is gone: nothing below is told of it."""


class Deadline:
    """Dies at the n-th of the moments it is asked about."""

    def __init__(self, moment: int) -> None:
        self.left = moment

    def pass_by(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1


@pytest.fixture
def deadline(monkeypatch) -> Iterator[Deadline]:
    """A deadline that every step of writing passes by, before it happens and, for files, half-way through."""
    clock = Deadline(-1)

    def watched(owner, name, half=None):
        before = getattr(owner, name)

        def call(*args, **kwargs):
            clock.pass_by()
            if half is not None and clock.left == 0:
                half(*args)
            clock.pass_by()
            return before(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    def half_a_file(path: Path, text: str) -> None:
        path.with_name(f".{path.name}.1.tmp").write_text(text[: len(text) // 2], encoding="utf-8")

    def half_a_shard(files: ShardFiles, path: Path, size: int) -> None:
        path.write_bytes(bytes(size // 2))

    def half_the_rows(files: ShardFiles, shard: int, slots: list[int], rows: torch.Tensor) -> None:
        """And half of one more: a row may be torn."""
        half = len(slots) // 2
        if half:
            put(files, shard, slots[:half], rows[:half])
        with files.path(shard).open("r+b") as file:
            file.seek(slots[half] * rows.shape[1] * rows.element_size())
            file.write(rows[half].numpy().tobytes()[: rows.shape[1] * rows.element_size() // 2])

    put = ShardFiles.put
    watched(writer, "write_text", half_a_file)
    watched(writer, "ShardHashes")
    watched(writer, "_measure")
    watched(ShardFiles, "_reserve", half_a_shard)
    watched(ShardFiles, "put", half_the_rows)
    # Only a power failure is kept waiting for by a flush; what a process wrote outlives it.
    monkeypatch.setattr(ShardFiles, "sync", lambda self, shard: None)
    monkeypatch.setattr(writer, "JOURNAL_SECONDS", -1.0)
    yield clock


def harvest(folder: Path, written: list[tuple[str, int]]) -> None:
    """Go on where the journal says, with whole chunks as the command does."""
    store = StoreWriter(folder, {"train": TRAIN, "heldout": HELDOUT}, 5, LAYOUT)
    for split, values in VALUES.items():
        for start in range(store.done(split), len(values), CHUNK):
            store.write(split, start, values[start : start + CHUNK])
            written.append((split, start))
    store.finish(ABOUT)


@pytest.mark.parametrize("journal_seconds", [-1.0, 1e9])
def test_killed_at_any_moment_it_resumes_to_the_same_bytes(tmp_path, deadline, monkeypatch, journal_seconds):
    monkeypatch.setattr(writer, "JOURNAL_SECONDS", journal_seconds)
    deadline.left = -1
    whole = folder_bytes(write_store(tmp_path / "whole", about=ABOUT, chunk=CHUNK).folder)
    repeated = moment = 0
    while True:
        folder = tmp_path / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        written: list[tuple[str, int]] = []
        deadline.left = moment
        try:
            harvest(folder, written)
            break
        except Killed:
            assert not (folder / "store.json").exists()
        deadline.left = -1
        harvest(folder, written)
        repeated += len(written) - len(set(written))
        found = {name: content for name, content in folder_bytes(folder).items() if not name.startswith(".")}
        assert found == whole, f"killed at moment {moment}"
        moment += 3 if journal_seconds < 0 else 7  # before, half-way and after, in turn
    assert moment > 90
    # A journal after each chunk leaves only the chunk in work to be written again.
    assert (repeated == 0) == (journal_seconds < 0)


def test_killed_again_and_again(tmp_path, deadline):
    whole = folder_bytes(write_store(tmp_path / "whole", about=ABOUT, chunk=CHUNK).folder)
    lives = 0
    folder = tmp_path / "killed"
    while not (folder / "store.json").exists():
        deadline.left = 20 + lives
        lives += 1
        try:
            harvest(folder, [])
        except Killed:
            continue
    assert lives > 3
    assert {name: content for name, content in folder_bytes(folder).items() if name[0] != "."} == whole


def test_the_journal_is_behind_what_was_written_never_ahead(tmp_path, deadline):
    """Whatever moment the process dies, tokens the journal counts are in the shards."""
    for moment in range(80, 160, 9):
        folder = tmp_path / str(moment)
        deadline.left = moment
        with pytest.raises(Killed):
            harvest(folder, [])
        deadline.left = -1
        store = StoreWriter(folder, {"train": TRAIN, "heldout": HELDOUT}, 5, LAYOUT)
        assert store.done("train") > 0
        stored = torch.cat(
            [store.files[s].open(i) for s in ("train", "calibration") for i in range(store.files[s].count)]
        )
        slots = torch.from_numpy(store._slots["train"][: store.done("train")].astype("int64"))
        assert torch.equal(stored[slots], VALUES["train"][: store.done("train")])


def test_another_layout_is_not_mixed_in(tmp_path):
    store = StoreWriter(tmp_path, {"train": TRAIN, "heldout": HELDOUT}, 5, LAYOUT)
    store.write("train", 0, VALUES["train"][:CHUNK])
    store.commit()
    before = folder_bytes(tmp_path)
    other = StoreConfig(dtype="float32", shard_rows=97, calibration_tokens=101, seed=4)
    with pytest.raises(ValueError, match=r"another store \(seed: 3 -> 4\)"):
        StoreWriter(tmp_path, {"train": TRAIN, "heldout": HELDOUT}, 5, other)
    with pytest.raises(ValueError, match=r"another store \(tokens.train: 1237 -> 1236\)"):
        StoreWriter(tmp_path, {"train": TRAIN - 1, "heldout": HELDOUT}, 5, LAYOUT)
    with pytest.raises(ValueError, match=r"another store \(d_in: 5 -> 6\)"):
        StoreWriter(tmp_path, {"train": TRAIN, "heldout": HELDOUT}, 6, LAYOUT)
    assert folder_bytes(tmp_path) == before


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"done": 3}', '{"layout": {}, "done": {"train": "x"}}'])
def test_a_broken_journal_starts_over(tmp_path, content):
    harvest(tmp_path / "whole", [])
    store = StoreWriter(tmp_path / "a", {"train": TRAIN, "heldout": HELDOUT}, 5, LAYOUT)
    store.write("train", 0, VALUES["train"][:CHUNK])
    store.commit()
    (tmp_path / "a" / "journal.json").write_text(content)
    written: list[tuple[str, int]] = []
    harvest(tmp_path / "a", written)
    assert written[0] == ("train", 0)
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "whole")


# A full disk -----------------------------------------------------------------------------------------------------


def test_the_room_is_asked_for_before_anything_is_written(tmp_path, monkeypatch):
    free = (TRAIN + HELDOUT) * 5 * 4
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free - 1))
    with pytest.raises(OSError, match=r"no space for the activations of 1,548 tokens: 30.2 KiB needed") as error:
        StoreWriter(tmp_path / "store", {"train": TRAIN, "heldout": HELDOUT}, 5, LAYOUT)
    assert error.value.errno == errno.ENOSPC and "\n" not in str(error.value)
    assert not (tmp_path / "store").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    harvest(tmp_path / "store", [])


def test_resuming_asks_only_for_what_is_not_yet_reserved(tmp_path, monkeypatch):
    StoreWriter(tmp_path, {"train": TRAIN, "heldout": HELDOUT}, 5, LAYOUT)
    (tmp_path / "train-00003.bin").write_bytes(b"cut short")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=97 * 5 * 4 - 1))
    with pytest.raises(OSError, match=r"1\.9 KiB needed, 1\.9 KiB free"):
        StoreWriter(tmp_path, {"train": TRAIN, "heldout": HELDOUT}, 5, LAYOUT)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=97 * 5 * 4))
    harvest(tmp_path, [])


def test_a_disk_that_fills_while_space_is_reserved(tmp_path, monkeypatch):
    harvest(tmp_path / "whole", [])
    real, calls = os.posix_fallocate, []

    def full(fd, offset, size):
        calls.append(size)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"no space for .*train-00004.bin .*expected 1,940 bytes: free some") as error:
        harvest(tmp_path / "store", [])
    assert error.value.errno == errno.ENOSPC and "\n" not in str(error.value)
    harvest(tmp_path / "store", [])
    assert folder_bytes(tmp_path / "store") == folder_bytes(tmp_path / "whole")


@pytest.mark.parametrize("name", ["journal.json", "store.json"])
def test_a_disk_that_fills_later_leaves_what_was_written_usable(tmp_path, monkeypatch, name):
    harvest(tmp_path / "whole", [])
    real = writer.write_text

    def full(path, text):
        if path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, text)

    monkeypatch.setattr(writer, "write_text", full)
    with pytest.raises(OSError, match=rf"{name} could not be written .*free some, then resume") as error:
        harvest(tmp_path / "store", [])
    assert "\n" not in str(error.value)
    monkeypatch.setattr(writer, "write_text", real)
    harvest(tmp_path / "store", [])
    assert folder_bytes(tmp_path / "store") == folder_bytes(tmp_path / "whole")
    assert json.loads((tmp_path / "store" / "journal.json").read_text())["done"] == {"train": TRAIN, "heldout": HELDOUT}
    assert len(ActivationStore(tmp_path / "store").rows("heldout")) == HELDOUT
