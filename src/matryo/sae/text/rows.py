"""Documents → rows of token ids of one fixed length, in a train part and parts kept apart: held-out, calibration.

Layout of a row: position 0 is BOS, positions 1 … row_length − 1 are text. Documents follow one another without
padding and run over the ends of rows; the tail that does not fill a row is dropped. Nothing is put between two
documents unless `RowsConfig.separator` is set: the usual separator is BOS itself, and language models treat every
BOS as an attention sink with an activation many times the usual norm, which would then sit in the middle of rows
where an autoencoder trains on it. The `document` array says where one document ends.

How the two parts are made is told in `matryo.sae.text.split`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matryo.sae.text.documents import Document, Source
from matryo.sae.text.split import SplitBy, assign, batches, interleave
from matryo.sae.text.spool import Spool

_ARRAYS = ("tokens", "document")
_HASHED_ROWS = 4_096
"""Rows hashed at a time: they may lie on disk and be more than memory holds."""

Encode = Callable[[list[str]], list[list[int]]]


@dataclass(frozen=True, kw_only=True)
class RowsConfig:
    """How documents become rows."""

    row_length: int = 256
    """Tokens in a row, BOS included."""
    max_tokens: int | None = None
    """Tokens of training text (BOS not counted), rounded up to whole rows; everything there is if not set."""
    heldout_fraction: float = 0.1
    """Share of the groups, and of the text, held out for evaluation."""
    calibration_fraction: float = 0.0
    """Share set aside from training to set inference thresholds on; there is none by default."""
    seed: int = 0
    """Decides which groups are held out or set aside."""
    separator: int | None = None
    """Token id put between documents; none by default."""

    def __post_init__(self) -> None:
        if self.row_length < 2:
            raise ValueError(f"row_length {self.row_length}: expected at least 2, BOS and one token of text")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens {self.max_tokens}: expected at least 1, or none for all of the text")
        for name, fraction in (("heldout", self.heldout_fraction), ("calibration", self.calibration_fraction)):
            if not 0 <= fraction < 1:
                raise ValueError(f"{name}_fraction {fraction}: expected 0 ≤ fraction < 1, e.g. 0.1")
        if self.heldout_fraction + self.calibration_fraction >= 1:
            raise ValueError(
                f"heldout_fraction {self.heldout_fraction} and calibration_fraction {self.calibration_fraction} leave "
                "nothing to train on: expected a sum below 1"
            )

    @property
    def fractions(self) -> dict[str, float]:
        """Of the parts other than "train"; "calibration" only where it is wanted."""
        calibration = {"calibration": self.calibration_fraction} if self.calibration_fraction else {}
        return {"heldout": self.heldout_fraction, **calibration}


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows of token ids, and where each token comes from.

    Attributes:
        tokens: int32 (n_rows, row_length); column 0 is BOS.
        document: int32, same shape: index into `names`, −1 at BOS and at separators.
        names: Names of the documents.
        split_by: Unit that the train/held-out split kept whole.
    """

    tokens: NDArray[np.int32]
    document: NDArray[np.int32]
    names: tuple[str, ...]
    split_by: SplitBy = "group"

    @property
    def n_tokens(self) -> int:
        """Tokens of text: everything but BOS."""
        return self.tokens.size - len(self.tokens)

    def digest(self) -> str:
        """SHA-256 over tokens, document indices and names, as 64 hexadecimal digits."""
        state = hashlib.sha256(json.dumps([self.tokens.shape, self.names]).encode())
        for array in (self.tokens, self.document):
            for start in range(0, len(array), _HASHED_ROWS):
                state.update(np.ascontiguousarray(array[start : start + _HASHED_ROWS], dtype="<i4").data)
        return state.hexdigest()

    def save(self, folder: Path) -> None:
        """Write `tokens.npy`, `document.npy` and, last, `rows.json`, each in one step."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in zip(_ARRAYS, (self.tokens, self.document), strict=True):
            partial = folder / f".{name}.partial.npy"
            np.save(partial, array, allow_pickle=False)
            partial.replace(folder / f"{name}.npy")
        record = {"digest": self.digest(), "split_by": self.split_by, "names": self.names}
        partial = folder / ".rows.partial.json"
        partial.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
        partial.replace(folder / "rows.json")

    @classmethod
    def load(cls, folder: Path) -> TokenRows:
        """Read what `save` wrote, by memory map.

        Raises:
            FileNotFoundError: The folder holds no rows.
            ValueError: The files do not match their digest.
        """
        folder = Path(folder)
        if not (folder / "rows.json").is_file():
            raise FileNotFoundError(f"{folder}: expected token rows (rows.json, tokens.npy, document.npy)")
        altered = ValueError(f"{folder}: the token rows do not match their digest; pack them again")
        try:
            record = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
            tokens, document = (np.load(folder / f"{name}.npy", "c", allow_pickle=False) for name in _ARRAYS)
            rows = cls(tokens, document, tuple(record["names"]), record["split_by"])
        except (ValueError, EOFError, KeyError, TypeError) as error:  # cut short, or not what save wrote
            raise altered from error
        if rows.digest() != record.get("digest"):
            raise altered
        return rows


def pack_rows(
    sources: Sequence[Source],
    encode: Encode,
    bos_id: int,
    config: RowsConfig | None = None,
    folder: Path | None = None,
) -> dict[str, TokenRows]:
    """Pack the documents of the sources into rows.

    Several sources are interleaved so that each has given about the same amount of text at any point. Reading stops
    when all parts are full.

    Args:
        sources: Where the documents come from; read from the start, possibly more than once.
        encode: Texts to token ids, without special tokens.
        bos_id: Token put at position 0 of every row.
        config: Row length, budget and split; the defaults if not given.
        folder: Where the rows grow, in unnamed files: memory holds none of them. The system's place if not given.

    Returns:
        `"train"` and `"heldout"`, and `"calibration"` if it has a fraction; held-out has no rows only if its fraction
        is 0.

    Raises:
        ValueError: There is no source, or less text than one row for each part.
    """
    config = config or RowsConfig()
    if not sources:
        raise ValueError("no text source given: expected at least one, e.g. pydocs")

    def packer(limit: int | None) -> _Packer:
        return _Packer(config, limit, bos_id, folder)

    by: SplitBy
    for by in ("group", "document"):
        parts = _pack_parts(sources, encode, config, by, packer)
        if parts is not None:
            return {name: part.rows(by) for name, part in parts.items()}
    return _pack_last_rows(sources, encode, config, packer)


def _wanted_rows(config: RowsConfig) -> dict[str, int | None]:
    """Rows of each part that the budget asks for; None without a budget."""
    parts = ("train", *config.fractions)
    if config.max_tokens is None:
        return dict.fromkeys(parts)
    train = math.ceil(config.max_tokens / (config.row_length - 1))
    # The fractions are of all text, so that all parts are full at about the same point of the stream.
    total = train / (1 - sum(config.fractions.values()))
    return {"train": train, **{part: _share(total, fraction) for part, fraction in config.fractions.items()}}


def _share(rows: float, fraction: float) -> int:
    return max(1, round(rows * fraction)) if fraction > 0 else 0


def _pack_parts(
    sources: Sequence[Source],
    encode: Encode,
    config: RowsConfig,
    by: SplitBy,
    packer: Callable[[int | None], _Packer],
) -> dict[str, _Packer] | None:
    """Pack with whole groups or documents in one part; None if that leaves a part without a row."""
    parts = {part: packer(limit) for part, limit in _wanted_rows(config).items()}
    part_of, stream = assign(interleave(sources), by, config.fractions, config.seed)
    if part_of is None:
        return None
    for batch in batches((part_of(document), document) for document in stream):
        batch = [(name, document, text) for name, document, text in batch if not parts[name].full]
        for (name, document, _), ids in zip(batch, encode([text for *_, text in batch]), strict=True):
            parts[name].add(ids, document)
        if all(part.full for part in parts.values()):
            break
    enough = all(part.n_rows > 0 or config.fractions.get(name) == 0 for name, part in parts.items())
    return parts if enough else None


def _pack_last_rows(
    sources: Sequence[Source], encode: Encode, config: RowsConfig, make: Callable[[int | None], _Packer]
) -> dict[str, TokenRows]:
    """Pack everything in order and take the other parts from the last rows: for a single document."""
    wanted = _wanted_rows(config)
    limit = None if config.max_tokens is None else sum(count or 0 for count in wanted.values())
    packer = make(limit)
    for batch in batches(("", document) for document in interleave(sources)):
        for (_, document, _), ids in zip(batch, encode([text for *_, text in batch]), strict=True):
            packer.add(ids, document)
        if packer.full:
            break
    needed = 1 + sum(fraction > 0 for fraction in config.fractions.values())
    if packer.n_rows < needed:
        parts = ", ".join(["one to train on", "one held out", "one to calibrate on"][:needed])
        raise ValueError(
            f"the text is {packer.n_tokens} tokens: expected at least {needed} rows of {config.row_length} "
            f"({parts}); give more text or a smaller row length"
        )
    rows = packer.rows("row")
    end, cut = len(rows.tokens), {}
    for part, fraction in config.fractions.items():
        count = wanted[part] if packer.full else _share(len(rows.tokens), fraction)
        cut[part] = slice(end - (count or 0), end)
        end -= count or 0
    cut["train"] = slice(0, end)
    return {
        part: TokenRows(rows.tokens[where], rows.document[where], rows.names, "row")
        for part, where in sorted(cut.items(), reverse=True)
    }


class _Packer:
    """Packs token ids into rows on disk, up to a number of rows (None: no limit)."""

    def __init__(self, config: RowsConfig, limit: int | None, bos_id: int, folder: Path | None) -> None:
        self.config, self.limit = config, limit
        self.names: list[str] = []
        self.n_tokens = 0
        # Of tokens and of the documents they are from: what stands in column 0, the rows, and the row begun.
        self._first = (bos_id, -1)
        self._spools = [Spool(config.row_length, folder) for _ in _ARRAYS]
        self._begun = [np.empty(0, np.int32) for _ in _ARRAYS]

    @property
    def n_rows(self) -> int:
        return self._spools[0].rows

    @property
    def full(self) -> bool:
        return self.limit is not None and self.n_rows >= self.limit

    def add(self, ids: Sequence[int], document: Document) -> None:
        """Append a piece of a document; pieces of one document follow one another."""
        if len(ids) == 0 or self.full:
            return
        if not self.names or self.names[-1] != document.name:
            if self.names and self.config.separator is not None:
                self._append(np.array([self.config.separator], dtype=np.int32), -1)
            self.names.append(document.name)
        self._append(np.asarray(ids, dtype=np.int32), len(self.names) - 1)

    def _append(self, ids: NDArray[np.int32], index: int) -> None:
        self.n_tokens += len(ids)
        width = self.config.row_length - 1
        added = (ids, np.full(len(ids), index, dtype=np.int32))
        begun = [np.concatenate(both) for both in zip(self._begun, added, strict=True)]
        count = len(begun[0]) // width
        if self.limit is not None:
            count = min(count, self.limit - self.n_rows)
        for spool, first, flat in zip(self._spools, self._first, begun, strict=True):
            rows = np.full((count, width + 1), first, np.int32)
            rows[:, 1:] = flat[: count * width].reshape(count, width)
            spool.append(rows)
        self._begun = [flat[count * width :] for flat in begun]

    def rows(self, split_by: SplitBy) -> TokenRows:
        """The full rows; names of documents that ended up in none are left out."""
        tokens, document = (spool.array() for spool in self._spools)
        n_names = int(document.max(initial=-1)) + 1
        return TokenRows(tokens, document, tuple(self.names[:n_names]), split_by)
