"""The text of an index: token rows, the pieces tokens are shown as, and bytes in which phrases are found."""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matryo.sae.dashboard.index import arrays
from matryo.sae.text import TokenRows
from matryo.spine.config import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

ROW_END = b"\x00"
"""Stands between rows in the bytes, so that no phrase is found across two of them."""


def write_corpus(folder: Path, rows: TokenRows, pieces: Sequence[str], raw: Sequence[bytes]) -> None:
    """Write rows, pieces, and the text as bytes with the place where every token begins.

    Args:
        folder: of the text.
        rows: token rows; position 0 (BOS) is no text.
        pieces: for every token id, how it is shown.
        raw: for every token id, its bytes.
    """
    rows.save(folder)
    write_text(folder / "pieces.json", json.dumps(list(pieces), ensure_ascii=False))
    sizes = np.array([len(part) for part in raw], np.int64)
    text = rows.tokens[:, 1:]
    lengths = sizes[text]
    lengths[:, -1] += len(ROW_END)
    start = arrays.starts(lengths.ravel())
    arrays.save(folder / "byte_start.npy", start)
    with (folder / "text.bin").open("wb") as file:
        for row in text:
            file.write(b"".join([raw[i].replace(ROW_END, b" ") for i in row.tolist()]) + ROW_END)


class Corpus:
    """The text, read back. Tokens are numbered row by row from 0, position 0 (BOS) of rows not counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = TokenRows.load(folder)
        self.pieces: list[str] = json.loads((folder / "pieces.json").read_text(encoding="utf-8"))
        self.per_row = self.rows.tokens.shape[1] - 1
        self.token_ids = np.ascontiguousarray(self.rows.tokens[:, 1:]).ravel()

    @property
    def n_tokens(self) -> int:
        """Number of tokens of text."""
        return len(self.token_ids)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How often every token id occurs."""
        return np.bincount(self.token_ids, minlength=len(self.pieces))

    @cached_property
    def _bytes(self) -> tuple[bytes, bytes, NDArray[np.int64]]:
        text = (self.folder / "text.bin").read_bytes()
        return text, text.lower(), np.asarray(arrays.load(self.folder / "byte_start.npy"))

    def find(self, phrase: str, fold_case: bool = True) -> NDArray[np.int64]:
        """The last token of every occurrence of a phrase: the first place at which a model has read it.

        Occurrences may begin and end within tokens. Letters of ASCII match in either case when `fold_case`.
        """
        text, folded, start = self._bytes
        wanted = phrase.encode().replace(ROW_END, b" ")
        if not wanted:
            return np.zeros(0, np.int64)
        if fold_case:
            text, wanted = folded, wanted.lower()
        ends = np.array([match.end() for match in re.finditer(re.escape(wanted), text)], np.int64)
        return np.unique(np.searchsorted(start, ends, "left") - 1)

    def place(self, token: int) -> tuple[int, int]:
        """Row and position of a token."""
        row, position = divmod(int(token), self.per_row)
        return row, position + 1

    def document(self, token: int) -> str:
        """Name of the document a token is of; empty at separators."""
        row, position = self.place(token)
        number = int(self.rows.document[row, position])
        return self.rows.names[number] if number >= 0 else ""

    def piece(self, token_id: int) -> str:
        """How a token id is shown."""
        return self.pieces[token_id] if 0 <= token_id < len(self.pieces) else f"<{token_id}>"

    def window(self, token: int, before: int, after: int) -> tuple[int, int]:
        """The tokens from `first` to `last` (not included) around a token, within its row."""
        row = token // self.per_row
        return max(row * self.per_row, token - before), min((row + 1) * self.per_row, token + after + 1)

    def about(self) -> dict[str, Any]:
        """Size and origin."""
        return {
            "tokens": self.n_tokens,
            "rows": len(self.rows.tokens),
            "row_length": self.per_row + 1,
            "documents": len(self.rows.names),
        }
