"""Explanations from a template: which tokens, where, and what the latent promotes. No model writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matryo.sae.evaluate.explain.examples import Example, Examples
from matryo.sae.lm import LM


@dataclass(frozen=True)
class Templated:
    """One latent in the words of a template."""

    tokens: tuple[tuple[str, float], ...]
    "The tokens on which it is active, by their share of its total activation."
    contexts: tuple[str, ...]
    "Its strongest windows, active tokens in « »."
    promoted: tuple[str, ...]
    "Tokens whose logits its decoder row raises most; none where the site is not of the model's width."
    text: str
    "The template filled in, marked as such."


def describe(
    lm: LM,
    tokens: Int[Tensor, "rows positions"],
    acts: Float[Tensor, "rows positions"],
    examples: Examples,
    row: Float[Tensor, "d"],
    unembed: Float[Tensor, "d vocab"] | None,
    count: int = 5,
) -> Templated:
    """Fill in the template for one latent.

    Args:
        lm: for the tokens' texts.
        tokens: token ids.
        acts: the latent's activations on them.
        examples: its windows.
        row: its decoder row.
        unembed: the model's unembedding, where the decoder writes to the residual stream; its final norm is left out.
        count: tokens of each kind.
    """
    active = acts > 0
    ids, inverse = torch.unique(tokens[active], return_inverse=True)
    mass = torch.zeros(len(ids)).index_add_(0, inverse, acts[active])
    top = mass.topk(min(count, len(ids)))
    shares = [
        (piece, float(value / mass.sum()))
        for piece, value in zip(lm.decode_tokens(ids[top.indices].tolist()), top.values, strict=True)
    ]
    contexts = tuple(mark(lm, tokens, example, "«", "»") for example in examples.shown[:3])
    promoted: tuple[str, ...] = ()
    if unembed is not None:
        logits = row @ unembed
        promoted = tuple(lm.decode_tokens(torch.topk(logits - logits.mean(), count).indices.tolist()))
    parts = ["active on " + ", ".join(f"'{piece}' ({100 * share:.0f} %)" for piece, share in shares)]
    if promoted:
        parts.append("promotes " + ", ".join(f"'{piece}'" for piece in promoted))
    parts.append("as in “" + contexts[0] + "”")
    return Templated(tuple(shares), contexts, promoted, "templated: " + "; ".join(parts))


def mark(lm: LM, tokens: Tensor, example: Example, left: str = "", right: str = "") -> str:
    """A window as text, its active tokens between two marks."""
    ids = tokens[example.row, example.first : example.first + len(example.values)].tolist()
    pieces = lm.decode_tokens(ids)
    return "".join(f"{left}{piece}{right}" if on else piece for piece, on in zip(pieces, example.active, strict=True))


def token_rule(tokens: Int[Tensor, "rows positions"], examples: Examples) -> list[bool]:
    """Guess for each test window whether the latent fires: if it has a token that was active in a window shown."""
    known = {
        int(tokens[example.row, example.first + at])
        for example in examples.shown
        for at, on in enumerate(example.active)
        if on
    }
    return [
        not known.isdisjoint(tokens[example.row, example.first : example.first + len(example.values)].tolist())
        for example in examples.tests
    ]


def accuracy(guesses: Sequence[bool], tests: Sequence[Example], random_inactive: bool = False) -> float:
    """Share of right guesses; `random_inactive` takes random windows to be inactive, as SAEBench does."""
    truth = [example.fires and not (random_inactive and example.random) for example in tests]
    return sum(guess == real for guess, real in zip(guesses, truth, strict=True)) / len(tests)
