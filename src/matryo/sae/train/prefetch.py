"""Batches read ahead by one thread while the step runs."""

from __future__ import annotations

import threading
from collections import deque
from copy import deepcopy
from typing import Any

from matryo.sae.train.batches import Batch, BatchSource


class Prefetched:
    """A `BatchSource` whose next batches are read, converted and checked in a background thread.

    For whoever takes batches nothing changes but the waiting: the same batches in the same order, `state()` after the
    last batch *taken* however many lie ready, and an error of the source when the batch it belongs to is taken, after
    all earlier ones. The thread reads at most `ahead` batches beyond those taken and at most `limit` in all, so that a
    one-time iterator keeps what was not asked for. It starts with the first `take()`, and is gone at the end of the
    data, after an error, at the limit, or after `close()`, which a `with` block calls however it ends.

    The source is iterated over in that thread, so it must not depend on where it runs (PyTorch's gradient mode, its
    global random generator, numba's parallel kernels, which one thread at a time may call). Sources known to be so say
    it by an attribute `read_ahead`, a number of batches. Any other has `ahead` 0 and is read when a batch is needed.
    """

    def __init__(self, source: BatchSource, ahead: int, limit: int | None = None) -> None:
        """Wrap a source.

        Raises:
            ValueError: `ahead` is negative.
        """
        if ahead < 0:
            raise ValueError(f"read_ahead is {ahead}; expected 0 or more batches")
        self.source, self.ahead, self.limit = source, ahead, limit
        self._ready: deque[tuple[Batch | None, dict[str, Any] | None, BaseException | None]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._running = self._stopping = False
        self._state: dict[str, Any] | None = None
        """After the last batch taken, once there is a thread: `source.state()` is the thread's then."""

    def __enter__(self) -> Prefetched:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def batches(self) -> Any:
        """The iterable at the bottom."""
        return self.source.batches

    def take(self) -> Batch | None:
        """The next batch, or None when a one-time iterator is exhausted; or the error that the source met there."""
        if self._stopping:
            raise ValueError("this source is closed; expected to take batches before: make a new one")
        if self._thread is None and self.ahead and self.limit != 0:
            self._state, self._running = deepcopy(self.source.state()), True
            self._thread = threading.Thread(target=self._read, name="matryo-prefetch", daemon=True)
            self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._ready or not self._running)
            if self._ready:
                batch, self._state, error = self._ready[0]
                if error is not None:
                    raise error  # It stays first in line: whoever asks again is told again.
                if batch is not None:
                    self._ready.popleft()
                    self._changed.notify_all()
                return batch
        self._state = None
        return self.source.take()

    def state(self) -> dict[str, Any]:
        """Where the source was after the last batch taken."""
        return self.source.state() if self._state is None else self._state

    def restore(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken, before the first batch.

        Raises:
            ValueError: a batch was taken already, or the data are shorter.
        """
        if self._thread is not None:
            raise ValueError("a batch was taken already; expected to restore before: make a new source")
        self.source.restore(state)

    def close(self) -> None:
        """Stop reading and wait for the thread. What lies ready is dropped; `state()` stays."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._ready.clear()

    def _read(self) -> None:
        """The thread: read and put in line until there is no more, or no more is wanted."""
        state, read, going = self._state, 0, True
        while going:
            batch, error = None, None
            try:
                batch = self.source.take()
                state = deepcopy(self.source.state())
            except BaseException as met:  # whatever it is, it is raised where the batch is taken
                error = met
            read += 1
            with self._changed:
                self._ready.append((batch, state, error))
                self._running = going = batch is not None and read != self.limit
                self._changed.notify_all()
                if going:
                    self._changed.wait_for(lambda: len(self._ready) < self.ahead or self._stopping)
                    going = not self._stopping
