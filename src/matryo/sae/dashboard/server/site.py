"""What all pages of one dashboard share: the index, the notes, the model once it is there, and the list of pages."""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matryo.sae.dashboard.index.opened import Index
from matryo.sae.dashboard.server.notes import Notes
from matryo.sae.dashboard.views.units import Columns, columns_beside, meta_runs, stitch_runs

LOOK_AGAIN_S = 10.0


class Site:
    """One index being shown."""

    def __init__(self, index: Index, runs: Path | None = None, live: Any = None) -> None:
        self.index, self.runs, self.live = index, runs, live
        self.notes = Notes(index.folder / "notes.sqlite")
        self.names = list(index.saes)
        self.hash = index.hash
        self.tokens = index.corpus.n_tokens
        self._links: dict[str, tuple[float, list[tuple[str, str]]]] = {}
        self._beside: dict[str, tuple[float, Columns]] = {}
        self.made = str(index.manifest["made"])[:10]

    @cached_property
    def stamp(self) -> str:
        """Changes when a static file does, so that browsers fetch it again."""
        import hashlib

        from matryo.spine.fetch import file_sha256

        files = sorted((Path(__file__).parents[1] / "static").rglob("*.[jc]s*"))
        return hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()[:12]

    def beside(self, sae: str) -> Columns:
        """Columns of an SAE's table that runs beside the index give, looked up every few seconds."""
        when, held = self._beside.get(sae, (-1e9, {}))
        if time.monotonic() - when >= LOOK_AGAIN_S:
            held = columns_beside(self.index.sae(sae), self.runs)
            self._beside[sae] = (time.monotonic(), held)
        return held

    def links(self, sae: str) -> list[tuple[str, str]]:
        """Pages in the margin; which runs there are beside the index is looked up every few seconds."""
        when, held = self._links.get(sae, (-1e9, []))
        if time.monotonic() - when < LOOK_AGAIN_S:
            return held
        base = f"/sae/{quote(sae, safe='')}"
        found = [(base, "Overview"), (f"{base}/latents", "Latents"), (f"{base}/map", "Map")]
        if any(len(one.lengths) > 1 for one in self.index.saes.values()):
            found.append((f"{base}/levels", "Levels"))
        if meta_runs(self.runs, self.index.sae(sae)):
            found.append((f"{base}/meta", "Meta-latents"))
        if stitch_runs(self.runs, self.index):
            found.append(("/stitch", "Stitching"))
        found += [(f"/compare?a={quote(sae)}", "Compare")] if len(self.names) > 1 else []
        found += [(f"/prompt?sae={quote(sae)}", "Prompt lab"), (f"/steer?sae={quote(sae)}", "Steer")]
        self._links[sae] = (time.monotonic(), [*found, *self._last(sae)])
        return self._links[sae][1]

    def _last(self, sae: str) -> list[tuple[str, str]]:
        return [("/runs", "Runs"), (f"/lists?sae={quote(sae)}", "Notes")]
