"""`file:PATH[#field]`: text files, JSON lines and Parquet, one file or a folder of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matryo.sae.text.documents import Document
from matryo.spine.errors import INSTALL, unknown
from matryo.spine.fetch import file_sha256

_PLAIN = (".txt", ".md", ".markdown")
_LINES = (".jsonl", ".ndjson")
SUFFIXES = (*_PLAIN, *_LINES, ".parquet")

_CHUNK_CHARS = 1 << 20  # a longer text file is read, and can be split, in pieces


@dataclass(frozen=True)
class FileSource:
    """The text of a file, or of every file with one of `SUFFIXES` in a folder, in the order of their paths.

    A text file is one document (several if it is longer than a million characters), a row of JSON lines or Parquet is
    one document. Rows are each a group of their own; the pieces of a text file are one group.
    """

    path: Path
    field: str = "text"

    @property
    def spec(self) -> str:
        """`file:PATH#field`."""
        return f"file:{self.path}#{self.field}"

    def files(self) -> list[tuple[str, Path]]:
        """(name, path) of the files to read.

        Raises:
            FileNotFoundError: The path does not exist, or the folder has no file that can be read.
            ValueError: The file is of another kind.
        """
        if not self.path.exists():
            raise FileNotFoundError(f"no file or folder {self.path}; check the path after file:")
        if self.path.is_file():
            if self.path.suffix.lower() not in SUFFIXES:
                raise unknown("kind of text file", self.path.name, SUFFIXES, "convert it, e.g. to .txt or .jsonl")
            return [(self.path.name, self.path)]
        paths = [path for path in self.path.rglob("*") if path.is_file() and path.suffix.lower() in SUFFIXES]
        if not paths:
            raise FileNotFoundError(f"folder {self.path} holds no text: expected files ending in {', '.join(SUFFIXES)}")
        return sorted((path.relative_to(self.path).as_posix(), path) for path in paths)

    def documents(self) -> Iterator[Document]:
        """Every text that is not blank.

        Raises:
            OSError: A file cannot be read.
            ValueError: A file is not what its name says, a row lacks the field, or there is no text at all.
        """
        empty = True
        for name, path in self.files():
            suffix = path.suffix.lower()
            read = _read_plain if suffix in _PLAIN else self._read_lines if suffix in _LINES else self._read_parquet
            for document in read(name, path):
                if document.text.strip():
                    empty = False
                    yield document
        if empty:
            raise ValueError(f"{self.path} holds no text: expected at least one row's worth; check the file")

    def describe(self) -> dict[str, Any]:
        """Path, field, number of files, bytes, and one hash over names and contents."""
        files = self.files()
        state = hashlib.sha256()
        for name, path in files:
            state.update(f"{name}\0{file_sha256(path)}\n".encode())
        return {
            "kind": "file",
            "path": str(self.path),
            "field": self.field,
            "files": len(files),
            "bytes": sum(path.stat().st_size for _, path in files),
            "sha256": state.hexdigest(),
            "licence": "not stated",
        }

    def _read_lines(self, name: str, path: Path) -> Iterator[Document]:
        for number, line in enumerate(_lines(path), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path} line {number} is not JSON ({error.msg}): expected one object a line, as in JSON lines"
                ) from error
            text = self._field(row, f"{path} line {number}")
            yield Document(text, f"{name}:{number}", f"{name}:{number}")

    def _field(self, row: object, where: str) -> str:
        """The row's text; "" for null, which published data sets use for rows without one."""
        if not isinstance(row, dict):
            raise ValueError(f"{where} is {type(row).__name__}: expected a JSON object with a field {self.field!r}")
        if self.field not in row:
            raise unknown("field", self.field, map(str, row), f"{where}; name the field: file:PATH#FIELD")
        text = row[self.field]
        if not isinstance(text, str | None):
            raise ValueError(
                f"{where}: field {self.field!r} is {type(text).__name__}, expected text; name another: file:PATH#FIELD"
            )
        return text or ""

    def _read_parquet(self, name: str, path: Path) -> Iterator[Document]:
        try:
            import pyarrow
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise ValueError(f"reading {path} needs pyarrow; {INSTALL}") from error
        try:
            table = parquet.ParquetFile(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not a complete Parquet file: write it again") from error
        with table:
            columns = table.schema_arrow.names
            if self.field not in columns:
                raise unknown("field", self.field, columns, f"{path}; name the field: file:PATH#FIELD")
            number = 0
            for batch in table.iter_batches(batch_size=256, columns=[self.field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    text = self._field({self.field: text}, f"{path} row {number}")
                    yield Document(text, f"{name}:{number}", f"{name}:{number}")


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as stream:
            yield from stream
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}): convert it, e.g. with iconv -t UTF-8") from error


def _read_plain(name: str, path: Path) -> Iterator[Document]:
    part: list[str] = []
    n_parts = n_chars = 0
    for line in _lines(path):
        if n_chars + len(line) > _CHUNK_CHARS and part:
            n_parts += 1
            yield Document("".join(part), name if n_parts == 1 else f"{name}#{n_parts}", name)
            part, n_chars = [], 0
        part.append(line)
        n_chars += len(line)
    if part:
        yield Document("".join(part), name if n_parts == 0 else f"{name}#{n_parts + 1}", name)


def parse_file(rest: str) -> FileSource:
    """The source of `PATH[#field]`; a `#` that belongs to an existing path is part of it."""
    path, mark, name = rest.rpartition("#")
    if mark and path and not Path(rest).expanduser().exists():
        if not name:
            raise ValueError(f"file:{rest}: expected a field after '#', e.g. file:{path}#text")
        return FileSource(Path(path).expanduser(), name)
    if not rest:
        raise ValueError("file: expected a path after the colon, e.g. file:notes.txt or file:data.jsonl#text")
    return FileSource(Path(rest).expanduser())
