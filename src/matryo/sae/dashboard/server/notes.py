"""Labels, tags and notes of latents: the one thing a dashboard writes, in one SQLite file."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

NOTHING: dict[str, Any] = {"label": "", "tags": [], "note": ""}

_TABLES = """
create table if not exists notes (
  sae text not null, latent integer not null, label text not null, tags text not null, note text not null,
  changed text not null, primary key (sae, latent));
create table if not exists history (
  sae text not null, latent integer not null, label text not null, tags text not null, note text not null,
  changed text not null);
create virtual table if not exists found using fts5(label, tags, note, sae unindexed, latent unindexed);
"""


class Notes:
    """Notes of all SAEs of an index. Reading needs no file; it is made when something is first saved."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=10)
        connection.executescript(_TABLES)
        return connection

    def get(self, sae: str, latent: int) -> dict[str, Any]:
        """Label, tags and note of one latent; empty ones where nothing was saved."""
        return {**NOTHING, **self.labels(sae).get(latent, {})}

    def labels(self, sae: str) -> dict[int, dict[str, Any]]:
        """What was saved of an SAE's latents, by latent."""
        if not self.path.is_file():
            return {}
        with self._lock, self._open() as base:
            rows = base.execute("select latent, label, tags, note from notes where sae = ?", (sae,)).fetchall()
        base.close()
        return {latent: {"label": label, "tags": json.loads(tags), "note": note} for latent, label, tags, note in rows}

    def save(self, sae: str, latent: int, label: str, tags: list[str], note: str) -> None:
        """Put a label, tags and a note in place of what was there, which goes into the history."""
        told = json.dumps(tags, ensure_ascii=False)
        row = (sae, latent, label, told, note, time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        with self._lock, self._open() as base:
            base.execute("insert or replace into notes values (?, ?, ?, ?, ?, ?)", row)
            base.execute("insert into history values (?, ?, ?, ?, ?, ?)", row)
            base.execute("delete from found where sae = ? and latent = ?", (sae, latent))
            base.execute("insert into found values (?, ?, ?, ?, ?)", (label, " ".join(tags), note, sae, latent))
        base.close()

    def history(self, sae: str, latent: int) -> list[dict[str, Any]]:
        """All that was ever saved of a latent, the newest first."""
        if not self.path.is_file():
            return []
        with self._lock, self._open() as base:
            rows = base.execute(
                "select label, tags, note, changed from history where sae = ? and latent = ? order by rowid desc",
                (sae, latent),
            ).fetchall()
        base.close()
        return [{"label": a, "tags": json.loads(b), "note": c, "changed": d} for a, b, c, d in rows]

    def find(self, words: str, count: int = 50) -> list[dict[str, Any]]:
        """Latents whose label, tags or note has all of some words, or words that begin with them."""
        terms = re.findall(r"\w+", words)
        if not terms or not self.path.is_file():
            return []
        asked = " ".join(f'"{term}"*' for term in terms)
        with self._lock, self._open() as base:
            rows = base.execute(
                "select sae, latent, label from found where found match ? order by rank limit ?", (asked, count)
            ).fetchall()
        base.close()
        return [{"sae": sae, "latent": int(latent), "label": label} for sae, latent, label in rows]
