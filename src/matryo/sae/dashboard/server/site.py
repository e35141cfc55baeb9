"""What all pages of one dashboard share: the index, the notes, the model once it is there, and the list of pages."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matryo.sae.dashboard.index.opened import Index
from matryo.sae.dashboard.server.notes import Notes


class Site:
    """One index being shown."""

    def __init__(self, index: Index, runs: Path | None = None, live: Any = None) -> None:
        self.index, self.runs, self.live = index, runs, live
        self.notes = Notes(index.folder / "notes.sqlite")
        self.names = list(index.saes)
        self.hash = index.hash
        self.tokens = index.corpus.n_tokens
        self.made = str(index.manifest["made"])[:10]

    @cached_property
    def stamp(self) -> str:
        """Changes when a static file does, so that browsers fetch it again."""
        from matryo.spine.fetch import file_sha256

        folder = Path(__file__).parents[1] / "static"
        return file_sha256(folder / "app.js")[:6] + file_sha256(folder / "app.css")[:6]

    def links(self, sae: str) -> list[tuple[str, str]]:
        """Pages in the margin."""
        base = f"/sae/{quote(sae, safe='')}"
        found = [(base, "Overview"), (f"{base}/latents", "Latents"), (f"{base}/map", "Map")]
        if any(len(one.lengths) > 1 for one in self.index.saes.values()):
            found.append((f"{base}/levels", "Levels"))
        found += [(f"/compare?a={quote(sae)}", "Compare")] if len(self.names) > 1 else []
        found += [(f"/prompt?sae={quote(sae)}", "Prompt lab"), (f"/steer?sae={quote(sae)}", "Steer")]
        return [*found, ("/runs", "Runs"), (f"/lists?sae={quote(sae)}", "Notes")]
