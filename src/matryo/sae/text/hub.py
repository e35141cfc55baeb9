"""`hf:NAME[:CONFIG][:SPLIT][#field]`: data sets of the Hugging Face hub or of a local folder, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from matryo.sae.text.documents import Document
from matryo.spine.errors import unknown

_SPLITS = ("train", "validation", "valid", "dev", "test")


@dataclass(frozen=True)
class HubSource:
    """A data set read row by row through `datasets.load_dataset(..., streaming=True)`; each row is a group.

    A name on the hub is pinned to the commit that is newest when the source is first used.
    """

    name: str
    config: str | None = None
    split: str = "train"
    field: str = "text"
    files: str | None = None
    """Parquet files of the repository to read, such as data/train-*.parquet, where it has a script of its own."""

    @property
    def spec(self) -> str:
        """`hf:NAME:CONFIG:SPLIT#field`."""
        return f"hf:{self.name}:{self.config or ''}:{self.split}#{self.field}"

    @property
    def is_local(self) -> bool:
        """Whether the name is a folder on this machine."""
        return Path(self.name).expanduser().is_dir()

    @cached_property
    def _info(self) -> tuple[str | None, str]:
        """(commit, licence) on the hub; asked for first, because it fails at once where there is no network."""
        if self.is_local:
            return None, "not stated"
        import huggingface_hub

        try:
            info = huggingface_hub.HfApi().dataset_info(self.name, timeout=20)
        except Exception as error:  # its errors share no base class below Exception
            raise self._cannot_open(error) from error
        licence = getattr(info.card_data, "license", None) if info.card_data else None
        return info.sha, str(licence or "see the data set's card")

    def _cannot_open(self, error: Exception) -> OSError:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
        where = "folder" if self.is_local else "Hugging Face hub"
        return OSError(
            f"cannot open data set {self.name!r} of the {where} ({reason}): "
            "check name, configuration, split and network; pydocs and file:PATH need none"
        )

    def _stream(self) -> Any:
        import datasets

        commit, _ = self._info
        name = str(Path(self.name).expanduser()) if self.is_local else self.name
        try:
            if self.files and not self.is_local:
                files = f"hf://datasets/{name}@{commit}/{self.files}"
                return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
            return datasets.load_dataset(name, self.config, split=self.split, streaming=True, revision=commit)
        except Exception as error:
            raise self._cannot_open(error) from error

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row, whatever its fields.

        Raises:
            OSError: The data set, configuration or split does not exist, or the network fails.
        """
        rows = iter(self._stream())
        while True:
            try:
                row = next(rows, None)
            except Exception as error:
                raise self._cannot_open(error) from error
            if row is None:
                return
            yield row

    def documents(self) -> Iterator[Document]:
        """The rows' texts that are not blank.

        Raises:
            OSError: The data set, configuration or split does not exist, or the network fails.
            ValueError: The rows have no such field, or no text in it.
        """
        empty = True
        for index, row in enumerate(self.rows()):
            if self.field not in row:
                raise unknown("field", self.field, row, f"of data set {self.name!r}; name the field: hf:NAME#FIELD")
            text = row[self.field]
            if not isinstance(text, str | None):
                raise ValueError(
                    f"data set {self.name!r}: field {self.field!r} is {type(text).__name__}, expected text; "
                    "name another: hf:NAME#FIELD"
                )
            if text and text.strip():
                empty = False
                name = f"{Path(self.name).name}/{self.split}/{index}"
                yield Document(text, name, name)
        if empty:
            raise ValueError(f"data set {self.name!r}, split {self.split!r}, has no text in field {self.field!r}")

    def describe(self) -> dict[str, Any]:
        """Name, configuration, split, field, the hub's commit and licence, and the library's version."""
        import datasets

        commit, licence = self._info
        return {
            "kind": "hf",
            "name": self.name,
            "config": self.config,
            "split": self.split,
            "field": self.field,
            "commit": commit,
            "licence": licence,
            "datasets": datasets.__version__,
        }


def parse_hub(rest: str) -> HubSource:
    """The source of `NAME[:CONFIG][:SPLIT][#field]`.

    A single part after the name is a split if it is one of train, validation, valid, dev and test, else a
    configuration; `NAME::SPLIT` names any other split.
    """
    rest, _, field = rest.partition("#")
    name, *parts = rest.split(":")
    if not name or len(parts) > 2:
        raise ValueError(f"hf:{rest}: expected hf:NAME[:CONFIG][:SPLIT][#field], e.g. hf:wikitext:wikitext-2-raw-v1")
    if len(parts) == 1 and parts[0] in _SPLITS:
        parts.insert(0, "")
    config, split = (*parts, "", "")[:2]
    return HubSource(name, config or None, split or "train", field or "text")
