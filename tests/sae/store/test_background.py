"""Stores written in a thread: the same bytes, the same errors, and nothing lost of what was given."""

import errno
import os
import threading
import time

import pytest
import torch
from tests.sae.store.cases import HELDOUT, LAYOUT, TRAIN, folder_bytes, tokens_of, write_store

from matryo.sae.store import BackgroundWriter, StoreConfig, StoreWriter, writer
from matryo.sae.store.background import WAITING

VALUES = {"train": tokens_of("train"), "heldout": tokens_of("heldout")}
CHUNK = 100


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert "matryo-writer" not in [thread.name for thread in threading.enumerate()]


def writers(folder, config: StoreConfig = LAYOUT) -> dict[str, StoreWriter]:
    return {site: StoreWriter(folder / site, {"train": TRAIN, "heldout": HELDOUT}, 5, config) for site in ("a", "b")}


def chunks(start: int = 0):
    for split, values in VALUES.items():
        for first in range(start, len(values), CHUNK):
            rows = values[first : first + CHUNK]
            yield split, first, {"a": rows, "b": -rows}
        start = 0


def test_every_site_gets_the_bytes_it_would_get_without_a_thread(tmp_path):
    stores = writers(tmp_path)
    with BackgroundWriter(stores) as writing:
        for chunk in chunks():
            writing.write(*chunk)
    for store in stores.values():
        store.finish({"lm": "none"})
    for site, sign in (("a", 1), ("b", -1)):
        plain = write_store(
            tmp_path / f"plain {site}", train=sign * VALUES["train"], heldout=sign * VALUES["heldout"], chunk=CHUNK
        )
        assert folder_bytes(tmp_path / site) == folder_bytes(plain.folder)


def test_few_chunks_wait(tmp_path, monkeypatch):
    go_on, written = threading.Semaphore(0), []
    real = StoreWriter.write

    def slow(self, split, first, values):
        go_on.acquire()
        written.append(first)
        real(self, split, first, values)

    monkeypatch.setattr(StoreWriter, "write", slow)
    given = []
    with BackgroundWriter({"a": writers(tmp_path)["a"]}) as writing:

        def give():
            for split, first, values in chunks():
                writing.write(split, first, {"a": values["a"]})
                given.append(first)

        giver = threading.Thread(target=give)
        giver.start()
        for done in range(5):
            deadline = time.monotonic() + 20
            while len(given) < done + WAITING + 1 and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.01)
            assert len(given) == done + WAITING + 1 and len(written) == done
            go_on.release()
            while len(written) == done and time.monotonic() < deadline:
                time.sleep(0.001)
        for _ in range(100):
            go_on.release()
        giver.join()
    assert written == given


def bad_chunks(at: int):
    for number, (split, first, values) in enumerate(chunks()):
        if number == at:
            values["b"] = values["b"].clone()
            values["b"][7, 2] = float("nan")
        yield split, first, values


@pytest.mark.parametrize("at", [0, 5, 12, 16])
def test_what_is_refused_in_the_thread_is_raised_here(tmp_path, at):
    """At the next chunk, or at the end for the last ones (number 16); what came before is in the journal."""
    stores = writers(tmp_path)
    with pytest.raises(ValueError, match=r"token \d*7 of the \w+ split has an activation that is NaN") as error:  # noqa: SIM117
        with BackgroundWriter(stores) as writing:
            for chunk in bad_chunks(at):
                writing.write(*chunk)
                if at == 5:
                    time.sleep(0.01)
    assert "\n" not in str(error.value) and error.value.__context__ is None
    again = writers(tmp_path)
    done = {site: sum(store.done(split) for split in VALUES) for site, store in again.items()}
    before = [len(values["a"]) for _, _, values in chunks()]
    assert done == {"a": sum(before[: at + 1]), "b": sum(before[:at])}


def test_a_disk_that_fails_is_one_line_and_what_was_written_stays(tmp_path, monkeypatch):
    real, calls = os.pwrite, []

    def full(file, data, offset):
        calls.append(offset)
        return len(data) // 2 if len(calls) == 450 else real(file, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    stores = writers(tmp_path)
    with pytest.raises(OSError, match=r"a/\w+-\d+.bin could not be written .*: free some room, then resume") as error:  # noqa: SIM117
        with BackgroundWriter(stores) as writing:
            for chunk in chunks():
                writing.write(*chunk)
    assert error.value.errno == errno.ENOSPC and "\n" not in str(error.value)
    monkeypatch.setattr(os, "pwrite", real)
    again = writers(tmp_path)
    assert again["a"].done("train") == again["b"].done("train") == 200
    with BackgroundWriter(again) as writing:
        for chunk in chunks(200):
            writing.write(*chunk)
    for store in again.values():
        store.finish({"lm": "none"})
    whole = write_store(tmp_path / "whole", chunk=CHUNK)
    assert folder_bytes(tmp_path / "a") == folder_bytes(whole.folder)


def test_interrupted_it_writes_what_was_given(tmp_path):
    stores = writers(tmp_path)
    with pytest.raises(KeyboardInterrupt), BackgroundWriter(stores) as writing:
        for number, chunk in enumerate(chunks()):
            if number == 7:
                raise KeyboardInterrupt
            writing.write(*chunk)
    assert [store.done("train") for store in writers(tmp_path).values()] == [700, 700]


def test_a_journal_that_cannot_be_written_is_said_at_the_end(tmp_path, monkeypatch):
    stores = writers(tmp_path)
    real = writer.write_text

    def full(path, text):
        if path.parent.name == "b":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, text)

    monkeypatch.setattr(writer, "write_text", full)
    with pytest.raises(OSError, match=r"b/journal.json could not be written"), BackgroundWriter(stores) as writing:
        writing.write(*next(chunks()))
    monkeypatch.undo()
    assert [store.done("train") for store in writers(tmp_path).values()] == [100, 0]


def test_the_device_of_the_values_does_not_matter_to_their_format(tmp_path):
    """Half-precision models: values are converted in the thread, each once."""
    store = StoreWriter(tmp_path, {"train": 60, "heldout": 20}, 5, StoreConfig(dtype="float16"))
    values = torch.randn(60, 5, dtype=torch.bfloat16)
    with BackgroundWriter({"a": store}) as writing:
        writing.write("train", 0, {"a": values})
        writing.write("heldout", 0, {"a": values[:20].double()})
    store.finish({})
    held = store.files["heldout"].open(0)
    order = torch.from_numpy(store._slots["heldout"].astype("int64"))
    assert torch.equal(held[order], values[:20].to(torch.float16))
