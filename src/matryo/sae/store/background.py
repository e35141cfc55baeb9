"""Writing stores in a thread, while the model computes what comes next."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping

from torch import Tensor

from matryo.sae.store.writer import StoreWriter

WAITING = 2
"""Chunks that may wait to be written: one would do if both sides were steady, the second rides out a flush to disk."""


class BackgroundWriter:
    """Passes chunks on to one `StoreWriter` per site, in order, in a thread of its own.

    Whoever gives chunks waits only while `WAITING` of them are not yet begun. What went wrong in the thread is raised
    by the next `write`, or at the end of the `with` block. However the block ends, chunks given before are written and
    every journal is brought up to date: nothing already computed is lost.
    """

    def __init__(self, writers: Mapping[str, StoreWriter]) -> None:
        self.writers = writers
        self._chunks: deque[tuple[str, int, Mapping[str, Tensor]]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._error: BaseException | None = None
        # Not a daemon: a process that is told to end finishes what it writes.
        self._thread = threading.Thread(target=self._work, name="matryo-writer")

    def __enter__(self) -> BackgroundWriter:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None and self._error is not error:
            raise self._error

    def write(self, split: str, first: int, values: Mapping[str, Tensor]) -> None:
        """Have the activations of tokens first, first + 1, … written to the store of each site.

        Raises:
            ValueError: an earlier chunk was refused by its writer.
            OSError: an earlier chunk could not be written.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._chunks) < WAITING or self._error)
            if self._error is not None:
                raise self._error
            self._chunks.append((split, first, values))
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            while (chunk := self._next()) is not None:
                split, first, values = chunk
                for site, rows in values.items():
                    self.writers[site].write(split, first, rows)
        except BaseException as error:  # whatever it is, it is the main thread's to raise
            self._failed(error)
        for writer in self.writers.values():
            try:
                writer.commit()
            except BaseException as error:
                self._failed(error)

    def _next(self) -> tuple[str, int, Mapping[str, Tensor]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._closing)
            chunk = self._chunks.popleft() if self._chunks else None
            self._changed.notify_all()
            return chunk

    def _failed(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()
