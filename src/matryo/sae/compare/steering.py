"""What edits of a latent's direction do to a language model's predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from matryo.sae.lm import LM, capture, splice
from matryo.sae.nn import SAE

PASS_TOKENS = 1_024
"""Tokens per forward pass; logits of a large vocabulary are the largest tensor here."""


@dataclass(frozen=True)
class EditEffect:
    """An edit of one latent, over the tokens on which the latent is active."""

    tokens: int
    kl: float
    "Mean KL(clean ‖ edited) of the next token, in nats."
    raised: tuple[int, ...]
    "Token ids whose mean log probability rises most, the first the most."
    lowered: tuple[int, ...]


@torch.no_grad()
def measure_edits(
    lm: LM,
    tokens: Int[Tensor, "rows pos"],
    site: str,
    sae: SAE,
    latent: int,
    edits: Mapping[str, Callable[[Tensor], Tensor]],
    shown: int = 6,
    advance: Callable[[int], None] = lambda tokens: None,
) -> dict[str, EditEffect]:
    """Run the model clean and with every edit, and compare its predictions where the latent is active.

        kl = mean over those tokens of Σ_v p(v) (log p(v) − log p_edited(v))

    Position 0 (BOS) is never edited or counted.

    Args:
        lm: the model.
        tokens: rows in which the latent is active somewhere.
        site: where the SAE belongs.
        sae: takes raw activations.
        latent: the edited latent.
        edits: by name, functions of activations such as `MetaSteering`.
        shown: tokens to report in each direction.
        advance: told the number of tokens done, every edit counted.

    Raises:
        ValueError: the latent is active on no token of the rows beyond position 0.
    """
    meters = {name: _Meter() for name in edits}
    rows = max(1, PASS_TOKENS // tokens.shape[1])
    for part in tokens.split(rows):
        x = capture(lm, part, [site])[site]
        entries = sae.eval().encode_sparse(x.flatten(0, 1).to(sae.W_dec))
        where = torch.zeros(part.numel(), dtype=torch.bool)
        where[entries.row[entries.latent == latent].cpu()] = True
        where = where.view(part.shape)
        where[:, 0] = False
        if not bool(where.any()):
            continue
        clean = torch.log_softmax(lm.logits(part)[where].float(), -1)
        for name, edit in edits.items():
            with splice(lm, {site: edit}, where=where):
                meters[name].add(clean, torch.log_softmax(lm.logits(part)[where].float(), -1))
            advance(part.numel())
    return {name: meter.result(latent, shown) for name, meter in meters.items()}


class _Meter:
    """Adds up what an edit changes."""

    def __init__(self) -> None:
        self.tokens, self.kl = 0, 0.0
        self.change: Tensor | None = None

    def add(self, clean: Tensor, edited: Tensor) -> None:
        """Take in log probabilities (tokens, vocab)."""
        self.tokens += len(clean)
        self.kl += float((clean.exp() * (clean - edited)).sum(dtype=torch.float64))
        change = (edited - clean).double().sum(0)
        self.change = change if self.change is None else self.change + change

    def result(self, latent: int, shown: int) -> EditEffect:
        """The means so far."""
        if self.change is None:
            raise ValueError(f"latent {latent} is active on no token of these rows; expected rows in which it fires")
        order = torch.argsort(self.change, descending=True, stable=True)
        return EditEffect(
            self.tokens, self.kl / self.tokens, tuple(order[:shown].tolist()), tuple(order[-shown:].flip(0).tolist())
        )
