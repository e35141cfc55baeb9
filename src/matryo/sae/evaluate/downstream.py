"""What the language model loses when its activations are replaced by their reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from matryo.sae.lm import LM, capture, splice
from matryo.sae.metrics import FvuMeter, MeanMeter, ce_recovered
from matryo.sae.nn import SAE

SINK_RATIO = 10.0
"""A token is a sink where its activation has more than this many times the median norm."""

PASS_TOKENS = 1_024
"""Tokens per forward pass; logits of a large vocabulary are the largest tensor here."""


@dataclass(frozen=True)
class Downstream:
    """Cross-entropies in nats/token over the same predictions, and reconstruction on the same tokens."""

    tokens: int
    "Predictions counted: of every token from position 2 on, made at positions 1, 2, …"
    sinks: int
    "Tokens beyond position 0 that were left unspliced."
    ce_clean: float
    ce_zero: float
    "With the site's activations set to 0."
    ce_mean: float
    "With the site's activations set to their mean."
    ce_spliced: dict[str, float]
    recovered: dict[str, float]
    "(ce_zero − ce_spliced) / (ce_zero − ce_clean)."
    fvu: dict[str, float]
    "Over the spliced tokens."
    fvu_with_sinks: dict[str, float]
    "Over all tokens beyond position 0."


@torch.no_grad()
def measure_downstream(
    lm: LM,
    tokens: Tensor,
    site: str,
    saes: Mapping[str, SAE],
    mean: Tensor | None = None,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Downstream:
    """Run the model clean, with every reconstruction, and with the site zeroed or set to its mean.

    Position 0 (BOS) and sinks stay as they are in all conditions: few tokens with huge activations on which attention
    rests, whose loss would drown everything else.

    Args:
        lm: the model.
        tokens: token ids (rows, positions).
        site: where the SAEs belong.
        saes: by name, taking raw activations of the site.
        mean: the site's mean activation; that of these tokens when not given.
        advance: told the number of tokens done.

    Raises:
        ValueError: rows of fewer than three positions.
    """
    if tokens.shape[1] < 3:
        raise ValueError(f"rows have {tokens.shape[1]} positions; expected at least 3 to predict from position 1 on")
    acts = capture(lm, tokens, [site])[site].float()
    norms = acts.norm(dim=-1)
    spliced = norms <= SINK_RATIO * norms[:, 1:].median()
    sinks = int((~spliced[:, 1:]).sum())
    spliced[:, 0] = False
    mean = acts[spliced].mean(0) if mean is None else mean.to(acts)
    edits: dict[str, Callable[[Tensor], Tensor]] = {
        "zero": torch.zeros_like,
        "mean": lambda x: mean.to(x).expand_as(x),
    }
    edits |= {f"sae {name}": sae for name, sae in saes.items()}
    meters = {name: MeanMeter() for name in ("clean", *edits)}
    rows = max(1, PASS_TOKENS // tokens.shape[1])
    for start in range(0, len(tokens), rows):
        part, where = tokens[start : start + rows], spliced[start : start + rows]
        meters["clean"].update(_losses(lm, part))
        for name, edit in edits.items():
            with splice(lm, {site: edit}, where=where):
                meters[name].update(_losses(lm, part))
        advance(part.numel())
    ce = {name: meter.result() for name, meter in meters.items()}
    within, beyond = _fvus(saes, acts, spliced)
    return Downstream(
        tokens=meters["clean"].count,
        sinks=sinks,
        ce_clean=ce["clean"],
        ce_zero=ce["zero"],
        ce_mean=ce["mean"],
        ce_spliced={name: ce[f"sae {name}"] for name in saes},
        recovered={name: ce_recovered(ce["clean"], ce[f"sae {name}"], ce["zero"]) for name in saes},
        fvu=within,
        fvu_with_sinks=beyond,
    )


def _losses(lm: LM, tokens: Tensor) -> Tensor:
    """−log p(next token) of every prediction made from position 1 on."""
    logits = lm.logits(tokens)[:, 1:-1].float()
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 2:].reshape(-1).to(logits.device), reduction="none")


def _fvus(saes: Mapping[str, SAE], acts: Tensor, spliced: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    within = {name: FvuMeter() for name in saes}
    beyond = {name: FvuMeter() for name in saes}
    for x, kept in zip(acts, spliced, strict=True):
        for name, sae in saes.items():
            x_hat = sae(x.to(sae.W_dec)).to(x)
            within[name].update(x[kept], x_hat[kept])
            beyond[name].update(x[1:], x_hat[1:])
    return {n: m.result() for n, m in within.items()}, {n: m.result() for n, m in beyond.items()}
