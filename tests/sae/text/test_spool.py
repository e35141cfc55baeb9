"""Rows that grow on disk: the same as in memory, and memory does not grow with them."""

import errno
import gc
import os
import tracemalloc

import numpy as np
import pytest

from matryo.sae.text import RowsConfig, TokenRows, pack_rows
from matryo.sae.text.documents import Document
from matryo.sae.text.spool import Spool


def test_it_holds_what_was_appended_in_order(tmp_path):
    rows = np.random.default_rng(0).integers(-9, 99, (103, 7)).astype(np.int32)
    spool = Spool(7, tmp_path)
    assert spool.array().shape == (0, 7)
    for start, end in ((0, 1), (1, 1), (1, 40), (40, 103)):
        spool.append(rows[start:end])
        assert np.array_equal(spool.array(), rows[:end]) and spool.rows == end
    spool.append(np.asfortranarray(rows))
    found = spool.array()
    assert np.array_equal(found, np.concatenate([rows, rows]))
    found[3] = 5
    assert np.array_equal(spool.array()[:103], rows)
    assert list(tmp_path.iterdir()) == []  # unnamed: nothing is left of it, whatever happens
    del spool
    gc.collect()
    assert found[4, 0] == rows[4, 0]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    spool = Spool(3, tmp_path)

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spool, "_file", Full())
    with pytest.raises(OSError, match=r"token rows could not be written to .*: free some room") as error:
        spool.append(np.ones((2, 3), np.int32))
    assert error.value.errno == errno.ENOSPC and "\n" not in str(error.value)


class Long:
    """Documents of 5,000 tokens in 40 groups."""

    def __init__(self, count: int) -> None:
        self.count = count

    def documents(self):
        return (Document("x" * 5_000, f"{i % 40}/{i}", str(i % 40)) for i in range(self.count))


def encode(texts: list[str]) -> list[np.ndarray]:
    return [np.arange(len(text), dtype=np.int32) for text in texts]


def peak(work) -> int:
    """Bytes that NumPy and Python held at once; memory maps are not among them."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_text(tmp_path):
    def pack(count: int) -> None:
        folder = tmp_path / str(count)
        folder.mkdir()
        rows = pack_rows([Long(count)], encode, 0, RowsConfig(row_length=100), folder)["train"]
        rows.save(folder / "train")
        found = TokenRows.load(folder / "train")
        assert found.n_tokens > 0.8 * 5_000 * count and found.digest() == rows.digest()

    few, many = peak(lambda: pack(200)), peak(lambda: pack(1_000))
    assert many - few < 3_000_000  # names, and what is hashed at a time; the rows are 8 bytes a token, 40 MB in all
