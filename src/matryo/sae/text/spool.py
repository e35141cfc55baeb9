"""Rows of numbers that grow on disk and are read by memory map."""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Spool:
    """An int32 array (rows, width) in an unnamed temporary file, which is gone with the last array that reads it."""

    def __init__(self, width: int, folder: Path | None = None) -> None:
        """Make the file in a folder, or where the system keeps temporary files.

        Raises:
            OSError: there is no room; so does `append`.
        """
        self.width, self.rows, self._folder = width, 0, folder or tempfile.gettempdir()
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed with the spool
        weakref.finalize(self, self._file.close)

    def append(self, rows: NDArray[np.int32]) -> None:
        """Add rows of `width` numbers at the end."""
        left = np.ascontiguousarray(rows, dtype=np.int32).data.cast("B") if rows.size else memoryview(b"")
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise OSError(
                error.errno, f"token rows could not be written to {self._folder} ({error.strerror}): free some room"
            ) from None
        self.rows += len(rows)

    def array(self) -> NDArray[np.int32]:
        """All rows so far. Changes to the array do not reach the file."""
        if not self.rows:
            return np.empty((0, self.width), np.int32)
        return np.memmap(self._file, dtype=np.int32, mode="c", shape=(self.rows, self.width))
