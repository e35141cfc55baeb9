"""An index, opened: arrays by memory map, one table of latents for each SAE, and the queries pages are made of."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matryo.sae.dashboard.index import arrays
from matryo.sae.dashboard.index.corpus import Corpus
from matryo.spine.errors import unknown

if TYPE_CHECKING:
    from matryo.sae.dashboard.share.standalone import LatentCard

SCHEMA = 1
"""The schema that is read here; `build` writes the same."""


def open_index(run: Path | str) -> Index:
    """Open the index in a run folder of `matryo sae index`, or the folder of an index itself."""
    place = Path(run).resolve()
    return Index(place / "index" if (place / "index").is_dir() else place)


class Index:
    """SAEs over one text.

    Attributes:
        folder: of the index.
        manifest: what `manifest.json` says.
        saes: by name.
    """

    def __init__(self, folder: Path) -> None:
        """Open it.

        Raises:
            ValueError: no index, one of another schema, or one whose files were altered.
        """
        file = folder / "manifest.json"
        if not file.is_file():
            raise ValueError(f"{folder} holds no finished index: make one with matryo sae index RUN")
        try:
            self.manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            schema, sizes = self.manifest["schema"], self.manifest["files"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged ({error}): make the index again") from error
        if schema != SCHEMA:
            raise ValueError(f"{file} has schema {schema}, expected {SCHEMA}: make the index again with this matryo")
        for name, size in sizes.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size:
                raise ValueError(f"{path} is missing or not the {size:,} bytes that were written: make the index again")
        self.folder = folder
        self.saes = {name: IndexedSAE(self, name, told) for name, told in self.manifest["saes"].items()}

    @cached_property
    def corpus(self) -> Corpus:
        """The text.

        Raises:
            ValueError: it is not the text that was indexed.
        """
        corpus = Corpus(self.folder / "text")
        if corpus.rows.digest() != self.manifest["text"]:
            raise ValueError(f"{corpus.folder} is not the text that was indexed: make the index again")
        return corpus

    @property
    def hash(self) -> str:
        """Eight digits that say which index this is."""
        import hashlib

        told = {key: value for key, value in self.manifest.items() if key not in ("made", "finalise_s")}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]

    def sae(self, name: str) -> IndexedSAE:
        """The SAE of a name; the nearest name is offered otherwise."""
        if name not in self.saes:
            raise unknown("SAE", name, self.saes)
        return self.saes[name]

    def __repr__(self) -> str:
        return f"Index({str(self.folder)!r}: {', '.join(self.saes)})"


class IndexedSAE:
    """One SAE of an index.

    Attributes:
        name: in the index.
        told: what the manifest says of it.
        n_latents: number of latents.
        lengths: its Matryoshka prefix lengths.
    """

    def __init__(self, index: Index, name: str, told: dict[str, Any]) -> None:
        self.index, self.name, self.told = index, name, told
        self.folder = index.folder / "saes" / name
        self.n_latents: int = told["n_latents"]
        self.lengths: list[int] = told["lengths"]

    # Arrays -----------------------------------------------------------------------------------------------------

    @cached_property
    def stats(self) -> NDArray[Any]:
        """The table of latents (see `statistics.COLUMNS`), in memory."""
        return np.array(arrays.load(self.folder / "stats.npy"))

    @cached_property
    def _forward(self) -> tuple[NDArray[np.int64], NDArray, NDArray]:
        start = arrays.load(self.folder / "fwd_start.npy")
        return start, arrays.flat(self.folder, "latent"), arrays.flat(self.folder, "act")

    @cached_property
    def _inverted(self) -> tuple[NDArray[np.int64], NDArray, NDArray]:
        start, token, act = (arrays.load(self.folder / f"inv_{name}.npy") for name in ("start", "token", "act"))
        return np.array(start), token, act

    @cached_property
    def units(self) -> NDArray[np.float32]:
        """Decoder rows at unit norm."""
        return arrays.load(self.folder / "units.npy")

    @cached_property
    def histograms(self) -> NDArray[np.uint32]:
        """(n_latents, 50): firings in equal intervals of (0, largest]."""
        return arrays.load(self.folder / "histogram.npy")

    @cached_property
    def edges(self) -> NDArray[Any]:
        """Candidate parents (see `levels.EDGE`), by child; none without levels."""
        from matryo.sae.dashboard.index.levels import EDGE

        path = self.folder / "edges.npy"
        return np.array(arrays.load(path)) if path.is_file() else np.zeros(0, EDGE)

    def logits(self, name: str) -> NDArray:
        """One of the arrays of `directions.Logits`; only where `told["logits"]`."""
        return arrays.load(self.folder / f"logits_{name}.npy")

    def match(self, other: str) -> NDArray[Any] | None:
        """For every latent the most similar of another SAE, and the cosine; None where it was not computed."""
        if other not in self.told["matches"]:
            return None
        return arrays.load(self.folder / f"match-{list(self.index.saes).index(other)}.npy")

    # Queries ----------------------------------------------------------------------------------------------------

    def check(self, latent: int) -> int:
        """The latent's number, once it is known to be one of this SAE."""
        if not 0 <= latent < self.n_latents:
            raise ValueError(f"latent {latent} is not of {self.name}; expected 0 to {self.n_latents - 1}")
        return latent

    def latent(self, latent: int) -> LatentCard:
        """A latent as a notebook shows it."""
        from matryo.sae.dashboard.share.standalone import LatentCard

        return LatentCard(self, latent)

    def firings(self, latent: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """Tokens on which a latent is active and its activations, the strongest first."""
        start, token, act = self._inverted
        part = slice(start[latent], start[latent + 1])
        return token[part], act[part]

    def active(self, token: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """Latents active on a token, ascending, and their activations."""
        start, latent, act = self._forward
        part = slice(start[token], start[token + 1])
        return latent[part], act[part]

    def values(self, latent: int, first: int, last: int) -> NDArray[np.float32]:
        """The activation of a latent on the tokens first … last − 1."""
        start, numbers, act = self._forward
        bounds = np.asarray(start[first : last + 1])
        part = slice(bounds[0], bounds[-1])
        hit = np.flatnonzero(numbers[part] == latent)
        out = np.zeros(last - first, np.float32)
        out[np.searchsorted(bounds, hit + bounds[0], "right") - 1] = act[part][hit]
        return out

    def together(self, tokens: NDArray) -> NDArray[np.int64]:
        """(n_latents,) On how many of some tokens each latent is active."""
        start, latent, _ = self._forward
        return np.bincount(latent[arrays.gather(start, tokens)], minlength=self.n_latents)

    def cosines(self, latent: int, other: IndexedSAE | None = None) -> NDArray[np.float32]:
        """Cosine of a latent's decoder row with every row of this SAE, or of another."""
        return (other or self).units @ self.units[latent]

    def __repr__(self) -> str:
        return f"IndexedSAE({self.name!r}, {self.n_latents:,} latents)"
