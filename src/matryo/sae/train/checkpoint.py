"""Checkpoints of a training run: written whole or not at all, checked when read.

A checkpoint does not depend on how many processes wrote it: state.safetensors holds whole tensors; where a dictionary
was cut into slices of latents, each slice is a file that names its rows, and any process may read any rows of any.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from matryo.sae.train.parallel.sharing import Parallel
from matryo.spine.fetch import file_sha256

TENSORS, PLAIN = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Part:
    """Tensors of one file; `rows` (first, one past the last) where they are those rows only of larger ones."""

    tensors: dict[str, Tensor]
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints `step-00000500`, of which the newest complete one counts; older ones are removed."""

    folder: Path

    def write(self, step: int, parts: dict[str, Part], plain: dict[str, Any], parallel: Parallel | None = None) -> Path:
        """Write one checkpoint under a temporary name, rename it, remove the older ones.

        Args:
            step: its number.
            parts: this process's files by name.
            plain: values that JSON can hold; the first process's are written.
            parallel: processes that all call this, and write into the same folder.

        Raises:
            OSError: it could not be written; the one before is still there.
        """
        parallel = parallel or Parallel()
        final, partial = self.folder / f"step-{step:08d}", self.folder / f"partial-{step:08d}"
        plain = {"step": step, **plain}

        def begin() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()

        def put() -> None:
            for name, part in parts.items():
                save_file(part.tensors, partial / name)
                written[name] = {"sha256": file_sha256(partial / name), "rows": part.rows}

        def seal() -> None:
            record = {"digest": _digest(files, plain), "files": files, "plain": plain}
            (partial / PLAIN).write_text(json.dumps(record), encoding="utf-8")
            if final.exists():
                shutil.rmtree(final)
            partial.replace(final)

        written: dict[str, Any] = {}
        self._try(begin if parallel.first else None, step, parallel)
        self._try(put, step, parallel)
        files = {name: told for some in parallel.exchange(written) for name, told in some.items()}
        self._try(seal if parallel.first else None, step, parallel)
        for old in self._complete():
            if old != final and parallel.first:
                shutil.rmtree(old, ignore_errors=True)
        return final

    def _try(self, act: Callable[[], None] | None, step: int, parallel: Parallel) -> None:
        """Do this process's part; the same error for all where one could not."""
        reason, number = "", 0
        try:
            if act is not None:
                act()
        except (OSError, SafetensorError) as error:
            reason, number = str(error), getattr(error, "errno", None) or errno.EIO
        if parallel.agree(number):
            reason, number = next(found for found in parallel.exchange([reason, number]) if found[1])
            if parallel.first:
                shutil.rmtree(self.folder / f"partial-{step:08d}", ignore_errors=True)
            raise OSError(
                number,
                f"the checkpoint of step {step} could not be written to {self.folder} ({reason}); expected room for "
                "it: free some, then resume from the one before",
            )

    def newest(self) -> Stored | None:
        """The newest checkpoint, or None.

        Raises:
            ValueError: its files are truncated or altered.
        """
        complete = self._complete()
        return _read(complete[-1]) if complete else None

    def _complete(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


@dataclass(frozen=True)
class Stored:
    """A checkpoint on disk. A file is hashed when it is first read."""

    path: Path
    plain: dict[str, Any]
    files: dict[str, dict[str, Any]]
    _known: set[str] = field(default_factory=set)

    def read(
        self, prefix: str, by_latent: Collection[str] = (), rows: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """The tensors whose name begins so, without the prefix; of those with a row for each latent some rows only.

        Args:
            prefix: of the names.
            by_latent: names, without the prefix, of tensors with a row for each latent.
            rows: first and one past the last of the latents wanted; all when None.

        Raises:
            ValueError: a file is truncated or altered.
        """
        found: dict[str, Tensor] = {}
        pieces: dict[str, dict[int, Tensor]] = {}
        for file, told in self.files.items():
            first, stop = told["rows"] or (0, None)
            if stop is not None and rows is not None and (stop <= rows[0] or rows[1] <= first):
                continue
            try:
                self._check(file)
                with safe_open(self.path / file, "pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 - not a mapping
                        if not name.startswith(prefix):
                            continue
                        short = name.removeprefix(prefix)
                        if stop is None and (rows is None or short not in by_latent):
                            found[short] = opened.get_tensor(name)
                            continue
                        piece = opened.get_slice(name)
                        low, high = (first, first + piece.get_shape()[0]) if rows is None else rows
                        pieces.setdefault(short, {})[first] = piece[max(low - first, 0) : high - first]
            except (OSError, ValueError, SafetensorError):
                raise _altered(self.path) from None
        joined = {name: torch.cat([some[first] for first in sorted(some)]) for name, some in pieces.items()}
        return found | joined

    def _check(self, file: str) -> None:
        if file not in self._known and file_sha256(self.path / file) != self.files[file]["sha256"]:
            raise ValueError(file)
        self._known.add(file)


def _read(path: Path) -> Stored:
    try:
        record = json.loads((path / PLAIN).read_text(encoding="utf-8"))
        plain, files = record["plain"], record["files"]
        intact = _digest(files, plain) == record["digest"] and all((path / name).is_file() for name in files)
    except (OSError, ValueError, KeyError, TypeError):
        intact, plain, files = False, {}, {}
    if not intact:
        raise _altered(path)
    return Stored(path, plain, files)


def _altered(path: Path) -> ValueError:
    return ValueError(f"checkpoint {path} is truncated or altered; expected it as written: start a new run")


def _digest(files: dict[str, Any], plain: dict[str, Any]) -> str:
    """SHA-256 over what stands in a checkpoint, the hashes of its files included."""
    return hashlib.sha256(json.dumps([files, plain], sort_keys=True).encode()).hexdigest()
