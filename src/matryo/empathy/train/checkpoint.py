"""Checkpoints of a training run: one file, written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from matryo.spine.errors import NoSpaceError


@dataclass(frozen=True)
class Checkpoints:
    """A folder that holds the newest checkpoint, `step-00050000.safetensors`."""

    folder: Path

    def write(self, step: int, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Write beside, rename, and remove the older ones.

        Raises:
            NoSpaceError: it could not be written; the one before is still there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.safetensors"
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            save_file(tensors, beside, {"plain": json.dumps(plain)})
            beside.replace(path)
        except (OSError, SafetensorError) as error:
            told = (
                f"the checkpoint of step {step} could not be written to {self.folder} ({error}); free some, then resume"
            )
            raise NoSpaceError(errno.ENOSPC, told) from None
        finally:
            beside.unlink(missing_ok=True)
        for old in self._files():
            if old != path:
                old.unlink()

    def newest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint's tensors and plain values, or None.

        Raises:
            ValueError: the file is truncated or altered.
        """
        if not (files := self._files()):
            return None
        try:
            with safe_open(files[-1], "pt") as file:
                plain = json.loads(file.metadata()["plain"])
                return {key: file.get_tensor(key) for key in file.keys()}, plain  # noqa: SIM118 - no mapping
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ValueError(
                f"checkpoint {files[-1]} is damaged ({error}); expected it as written: start a new run"
            ) from None

    def remove(self) -> None:
        """Remove all: the run is finished."""
        for path in self._files():
            path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))
