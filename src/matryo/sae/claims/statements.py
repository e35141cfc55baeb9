"""What the papers say of two kinds of autoencoder, and where it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a paper says of two kinds of autoencoder."""

    statement: str
    source: str
    theirs: str
    "The paper's own number, or that it shows curves only."
    where: str
    "Beginning of the units' names."
    score: str
    first: str
    second: str
    direction: str
    "How the second is expected to compare with the first: lower, higher or about the same."


_BTK, _MAT = "BatchTopK (2024)", "Matryoshka (2025)"
_PAIR = {"first": "batch_topk", "second": "matryoshka", "source": _MAT}
_TOY = {"first": "vanilla", "second": "matryoshka", "source": _MAT}
_GEMMA = "on Gemma-2-2B, 65k latents, L0 40"
_CURVES = "curves only"

CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            statement=f"BatchTopK {what} than {other}",
            source=_BTK,
            theirs=f"{_CURVES}, GPT-2 small, k = 16, 32, 64",
            where="basic",
            score=score,
            first=first,
            second="batch_topk",
            direction="lower",
        )
        for other, first in (("TopK", "topk"), ("JumpReLU", "jumprelu"))
        for what, score in (("reconstructs better (FVU)", "fvu"), ("costs the model less (CE)", "ce_cost"))
    ),
    Claim(statement="Matryoshka reconstructs a little worse (FVU)", theirs=f"0.28 → 0.30 {_GEMMA}", where="basic",
          score="fvu", direction="higher", **_PAIR),
    Claim(statement="Matryoshka costs the model about as much (CE)", theirs=_CURVES, where="basic", score="ce_cost",
          direction="about the same", **_PAIR),
    Claim(statement="Matryoshka's decoder rows overlap less", theirs=_CURVES, where="basic", score="decoder_cosine",
          direction="lower", **_PAIR),
    Claim(statement="Matryoshka absorbs less (first letter)", theirs=f"0.49 → 0.05 {_GEMMA}", where="absorption",
          score="fraction_absorption", direction="lower", **_PAIR),
    Claim(statement="Matryoshka splits fewer latents", theirs=f"3 → 1 {_GEMMA}", where="absorption",
          score="split_latents", direction="lower", **_PAIR),
    Claim(statement="Matryoshka's single best latent probes better", theirs=_CURVES, where="probing",
          score="top1_accuracy", direction="higher", **_PAIR),
    Claim(statement="Matryoshka's latents are more targeted (TPP)", theirs=_CURVES, where="tpp", score="tpp_20",
          direction="higher", **_PAIR),
    Claim(statement="a meta-SAE explains less of Matryoshka's decoder",
          theirs="55 % → 42 % on Gemma-2-2B, 36,864 latents, a quarter as many meta-latents, k = 4", where="meta",
          score="decoder_explained", direction="lower", **_PAIR),
    *(
        Claim(statement=f"{name}: {what}", theirs=theirs if where == "toy-paper" else "not in the paper", where=where,
              score=score, direction=direction, **_TOY)
        for name, where in (("toy tree", "toy-paper"), ("generated tree", "toy-generated"))
        for what, score, direction, theirs in (
            ("the parent's latent fires with its children", "parent_active", "higher", "shown in a figure"),
            ("children's latents absorb less", "absorption", "lower", "shown in a figure"),
            ("children's rows carry less of the parent", "mixing", "lower", "≈ 0.7 → ≈ 0, read off a figure"),
            ("rows are nearer to the truth", "cosine", "higher", "shown in a figure"),
            ("features are split less", "split", "lower", "not in the paper"),
            ("reconstruction is a little worse (FVU)", "fvu", "higher", "not in the paper"),
        )
    ),
    *(
        Claim(statement=f"planted families: a meta-SAE of {size} of the latents explains less of Matryoshka's decoder",
              theirs="not in the paper", where="toy-meta", score=score, direction="lower", **_TOY)
        for size, score in (("1/4", "decoder_explained"), ("3/64", "decoder_explained_small"))
    ),
)  # fmt: skip


def family(config: Mapping[str, Any]) -> str:
    """What a claim calls an autoencoder."""
    return "matryoshka" if config["levels"] != "none" else str(config["kind"])
