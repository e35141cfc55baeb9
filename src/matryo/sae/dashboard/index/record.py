"""The first half of an index: the active latents of every token, appended in token order as they are computed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from matryo.spine.config import write_text
from matryo.spine.errors import check_space

if TYPE_CHECKING:
    from matryo.sae.kernels import Entries

FILES = {"count": np.dtype("<u2"), "latent": np.dtype("<u4"), "act": np.dtype("<f4")}
"""Per token its number of active latents; per active latent, by ascending number within a token, number and value."""

MARGIN_BYTES = 64 * 2**20


class Recorder:
    """Appends the active latents of tokens to flat files; after a kill it goes on from the last committed token.

    What is committed is told in `recorded.json`; files may be longer, and are cut to it when the recorder is opened.
    """

    def __init__(self, folder: Path, names: Mapping[str, Any]) -> None:
        """Open, or go on with, the recording of the SAEs named."""
        self.folder, self._names = folder, list(names)
        self._told = folder / "recorded.json"
        held = json.loads(self._told.read_text()) if self._told.is_file() else {"tokens": 0, "entries": {}}
        self.tokens: int = held["tokens"]
        self.entries: dict[str, int] = {name: held["entries"].get(name, 0) for name in names}
        self._files: dict[tuple[str, str], BinaryIO] = {}
        for name in names:
            (folder / "saes" / name).mkdir(parents=True, exist_ok=True)
            for kind, dtype in FILES.items():
                path = folder / "saes" / name / f"{kind}.bin"
                length = (self.tokens if kind == "count" else self.entries[name]) * dtype.itemsize
                file = path.open("r+b" if path.exists() else "w+b")
                file.truncate(length)
                file.seek(length)
                self._files[name, kind] = file

    def append(self, found: Mapping[str, Entries]) -> None:
        """Add the active latents of the next tokens, of every SAE, and commit them."""
        check_space(self.folder, MARGIN_BYTES + sum(8 * len(entries.latent) for entries in found.values()), "the index")
        tokens = 0
        for name in self._names:
            entries = found[name]
            tokens = entries.n_rows
            counts = entries.row_start.diff().cpu().numpy()
            if counts.size and counts.max() > np.iinfo(FILES["count"]).max:
                raise ValueError(f"{name} has a token with {counts.max()} active latents; expected at most 65,535")
            values = {"count": counts, "latent": entries.latent.cpu().numpy(), "act": entries.value.cpu().numpy()}
            for kind, dtype in FILES.items():
                self._files[name, kind].write(values[kind].astype(dtype).tobytes())
            self.entries[name] += len(values["latent"])
        self.tokens += tokens
        for file in self._files.values():
            file.flush()
        write_text(self._told, json.dumps({"tokens": self.tokens, "entries": self.entries}))

    def close(self) -> None:
        """Put everything on the disk and close the files."""
        for file in self._files.values():
            if not file.closed:
                os.fsync(file.fileno())
                file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
