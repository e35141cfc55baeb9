"""Steering by meta-latents: some taken out of a latent's decoder row, some put in."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matryo.sae.dashboard.index.opened import IndexedSAE
from matryo.sae.dashboard.views.meta import of_latent
from matryo.sae.dashboard.views.query import Query
from matryo.sae.dashboard.views.units import Columns, meta_runs, read_table
from matryo.spine.errors import unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from matryo.sae.compare.meta import MetaSteering
    from matryo.sae.nn import SAE

MOST_METAS = 16
RAISED = 8
"""Tokens shown that an edited row raises."""


def asked_edit(sae: IndexedSAE, runs: Path | None, query: Query, latents: Sequence[int]) -> dict[str, Any]:
    """What is to be taken out (`without`: numbers) and put in (`with`: numbers, or number:activation), and the parts.

    Only where the edit asked for is that of meta-latents.

    A meta-latent put in without an activation gets its mean activation over the latents that have it.

    Raises:
        ValueError: there is no meta-SAE of these weights, no such meta-latent, or one that none of the latents has.
    """
    found = meta_runs(runs, sae) if query.text("edit") == "meta" else {}
    view: dict[str, Any] = {
        "runs": list(found),
        "run": query.text("of", next(iter(found), ""), longest=200),
        "without": query.text("without", longest=200),
        "with": query.text("with", longest=400),
        "out": [],
        "put": [],
        "latents": [],
    }
    if not found:
        if query.text("edit") == "meta" and latents:
            raise ValueError(f"there is no meta-SAE of {sae.name} beside the index: make one with matryo sae meta")
        return view
    if view["run"] not in found:
        raise unknown("meta-SAE run", view["run"][:80], found)
    files = found[view["run"]].files
    tables: dict[str, Columns] = {key: read_table(files[key]) for key in ("latents", "edges", "meta_latents")}
    view["latents"] = [of_latent(sae, tables["latents"], tables["edges"], latent) for latent in latents]
    n_meta = len(tables["meta_latents"]["meta_latent"])
    view["out"] = [_number("without", word, n_meta) for word in _words("without", view["without"])]
    view["put"] = [_put(word, n_meta, tables["edges"]) for word in _words("with", view["with"])]
    has = {part["meta"] for one in view["latents"] for part in one["parts"]}
    for meta in view["out"]:
        if latents and meta not in has:
            raise ValueError(
                f"without is {meta}, which is no meta-latent of latent {', '.join(map(str, latents))}; expected "
                f"some of {', '.join(map(str, sorted(has))) or 'none: it has none'}"
            )
    return view


def _words(name: str, text: str) -> list[str]:
    words = text.replace(",", " ").split()
    if len(words) > MOST_METAS:
        raise ValueError(f"{name} has {len(words)} meta-latents; expected at most {MOST_METAS}")
    return list(dict.fromkeys(words))


def _number(name: str, word: str, n_meta: int) -> int:
    if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) < n_meta):
        raise ValueError(f"{name} is {word[:40]!r}; expected numbers of meta-latents, 0 to {n_meta - 1}")
    return int(word)


def _put(word: str, n_meta: int, edges: Columns) -> dict[str, Any]:
    """One meta-latent to be put in, with its activation."""
    number, colon, value = word.partition(":")
    meta = _number("with", number, n_meta)
    own = edges["activation"][edges["meta_latent"] == meta]
    if colon:
        return {"meta": meta, "activation": Query({"activation": value}).number("activation", 1.0, -100, 100)}
    if not len(own):
        raise ValueError(
            f"meta-latent {meta} is of no latent, so it has no mean activation: give one, as in {meta}:0.5"
        )
    return {"meta": meta, "activation": float(own.mean())}


def steering_of(sae: IndexedSAE, weights: SAE, latents: Sequence[int], asked: dict[str, Any], runs: Path | None) -> Any:
    """`MetaSteering` with one edit for every latent."""
    from matryo.sae.compare.meta import MetaEdit, MetaSteering

    put = tuple((one["meta"], one["activation"]) for one in asked["put"])
    edits = [MetaEdit(latent=latent, remove=tuple(asked["out"]), add=put) for latent in latents]
    folder = meta_runs(runs, sae)[asked["run"]].files["meta_sae"]
    return MetaSteering(weights, _load(folder, folder.stat().st_mtime_ns), edits)


@lru_cache(maxsize=4)
def _load(folder: Path, changed: int) -> SAE:
    from matryo.sae.nn import SAE

    return SAE.load(folder)


def edited_rows(
    weights: SAE, latents: Sequence[int], steering: MetaSteering, unembed: Tensor | None, pieces: Any
) -> list[dict[str, Any]]:
    """Of every latent: cosine and norm of the edited decoder row with and to the former one, and tokens both raise."""
    import torch

    from matryo.sae.dashboard.index.directions import read_logits

    found = []
    for latent, change in zip(latents, steering.change, strict=True):
        before = weights.W_dec[latent].detach()
        after = before + change
        norms = torch.linalg.vector_norm(torch.stack([before, after]).double(), dim=1)
        cosine = float(before.double() @ after.double() / (norms[0] * norms[1])) if norms.min() > 0 else None
        norm = float(norms[1] / norms[0]) if norms[0] > 0 else None
        told: dict[str, Any] = {"latent": int(latent), "cosine": cosine, "norm": norm, "raises": []}
        if unembed is not None and unembed.shape[0] == len(before):
            logits = read_logits(torch.stack([before, after]).float().cpu(), unembed)
            told["raises"] = [
                [
                    {"piece": pieces(int(i)), "value": float(v)}
                    for i, v in zip(ids[:RAISED], values[:RAISED], strict=True)
                ]
                for ids, values in zip(np.asarray(logits.top_token), np.asarray(logits.top), strict=True)
            ]
        found.append(told)
    return found
