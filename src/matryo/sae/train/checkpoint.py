"""Checkpoints of a training run: written whole or not at all, checked when read."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from matryo.spine.fetch import file_sha256

TENSORS, PLAIN = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints `step-00000500`, of which the newest complete one counts; older ones are removed."""

    folder: Path

    def write(self, step: int, tensors: dict[str, Tensor], plain: dict[str, Any]) -> Path:
        """Write one checkpoint under a temporary name, rename it, remove the older ones.

        Raises:
            OSError: it could not be written; the one before is still there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.folder / f"step-{step:08d}"
        partial = self.folder / f"partial-{step:08d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            save_file(tensors, partial / TENSORS)
            plain = {"step": step, **plain}
            record = {"digest": _digest(partial / TENSORS, plain), "plain": plain}
            (partial / PLAIN).write_text(json.dumps(record), encoding="utf-8")
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise OSError(
                getattr(error, "errno", None) or errno.EIO,
                f"the checkpoint of step {step} could not be written to {self.folder} ({error}); expected room for it: "
                "free some, then resume from the one before",
            ) from None
        if final.exists():
            shutil.rmtree(final)
        partial.replace(final)
        for old in self._complete():
            if old != final:
                shutil.rmtree(old, ignore_errors=True)
        return final

    def newest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint's tensors and plain values, or None.

        Raises:
            ValueError: its files are truncated or altered.
        """
        complete = self._complete()
        if not complete:
            return None
        path = complete[-1]
        try:
            record = json.loads((path / PLAIN).read_text(encoding="utf-8"))
            plain = record["plain"]
            intact = _digest(path / TENSORS, plain) == record["digest"]
            tensors = load_file(path / TENSORS) if intact else {}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            intact, plain, tensors = False, {}, {}
        if not intact:
            raise ValueError(f"checkpoint {path} is truncated or altered; expected it as written: start a new run")
        return tensors, plain

    def _complete(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def _digest(tensors: Path, plain: dict[str, Any]) -> str:
    """SHA-256 over both files of a checkpoint."""
    return hashlib.sha256((file_sha256(tensors) + json.dumps(plain, sort_keys=True)).encode()).hexdigest()
