"""What the language model loses when its activations are replaced by their reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from matryo.sae.evaluate.config import DownstreamConfig
from matryo.sae.evaluate.outcome import Outcome, Table
from matryo.sae.evaluate.runs import spread_rows
from matryo.sae.evaluate.subjects import Subjects
from matryo.sae.lm import LM, capture, splice
from matryo.sae.metrics import FvuMeter, MeanMeter, ce_recovered
from matryo.sae.nn import SAE

SINK_RATIO = 10.0
"""A token is a sink where its activation has more than this many times the median norm."""

PASS_TOKENS = 1_024
"""Tokens per forward pass; logits of a large vocabulary are the largest tensor here."""

KL_ROWS = 128
"""Predictions whose KL divergence is worked out at a time, for the same reason."""


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
    kl_zero: float
    "KL(clean ‖ zeroed), nats/token: Σ p log(p / q) over the vocabulary, p the clean model's."
    kl_mean: float
    kl_spliced: dict[str, float]
    kl_recovered: dict[str, float]
    "1 − kl_spliced / kl_zero."
    level_ce: dict[str, dict[int, float]]
    "Cross-entropy with the reconstruction of each Matryoshka prefix; empty where levels were not asked for."
    level_kl: dict[str, dict[int, float]]
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
    levels: bool = False,
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
        levels: measure every Matryoshka prefix too, one more run of the model each.
        advance: told the number of tokens done.

    Raises:
        ValueError: rows of fewer than three positions.
    """
    if tokens.shape[1] < 3:
        raise ValueError(f"rows have {tokens.shape[1]} positions; expected at least 3 to predict from position 1 on")
    acts = capture(lm, tokens, [site])[site].float()
    spliced = _ordinary(acts)
    mean = acts[spliced].mean(0) if mean is None else mean.to(acts)
    edits: dict[str, Callable[[Tensor], Tensor]] = {
        "zero": torch.zeros_like,
        "mean": lambda x: mean.to(x).expand_as(x),
    }
    edits |= {f"sae {name}": sae for name, sae in saes.items()}
    parts = [(name, m) for name, sae in saes.items() for m in sae.config.lengths[:-1] if levels]
    edits |= {f"level {m} {name}": saes[name].prefix(m).eval() for name, m in parts}
    meters = _run(lm, tokens, site, edits, spliced, advance)
    ce, kl = ({name: meter.result() for name, meter in found.items()} for found in meters)
    within, beyond = _fvus(saes, acts, spliced)
    return Downstream(
        tokens=meters[0]["clean"].count,
        sinks=int((~spliced[:, 1:]).sum()),
        ce_clean=ce["clean"],
        ce_zero=ce["zero"],
        ce_mean=ce["mean"],
        ce_spliced={name: ce[f"sae {name}"] for name in saes},
        recovered={name: ce_recovered(ce["clean"], ce[f"sae {name}"], ce["zero"]) for name in saes},
        kl_zero=kl["zero"],
        kl_mean=kl["mean"],
        kl_spliced={name: kl[f"sae {name}"] for name in saes},
        kl_recovered={name: ce_recovered(0.0, kl[f"sae {name}"], kl["zero"]) for name in saes},
        level_ce=_by_level(ce, saes, parts),
        level_kl=_by_level(kl, saes, parts),
        fvu=within,
        fvu_with_sinks=beyond,
    )


def _ordinary(acts: Tensor) -> Tensor:
    """Which tokens (rows, positions) are spliced: all but position 0 and sinks."""
    norms = acts.norm(dim=-1)
    spliced = norms <= SINK_RATIO * norms[:, 1:].median()
    spliced[:, 0] = False
    return spliced


def _by_level(
    found: Mapping[str, float], saes: Mapping[str, SAE], parts: Iterable[tuple[str, int]]
) -> dict[str, dict[int, float]]:
    """What was found with every prefix, and with the whole, of the autoencoders that have levels."""
    told: dict[str, dict[int, float]] = {}
    for name, m in parts:
        told.setdefault(name, {})[m] = found[f"level {m} {name}"]
    return {name: values | {saes[name].config.n_latents: found[f"sae {name}"]} for name, values in told.items()}


def _run(
    lm: LM,
    tokens: Tensor,
    site: str,
    edits: Mapping[str, Callable[[Tensor], Tensor]],
    spliced: Tensor,
    advance: Callable[[int], None],
) -> tuple[dict[str, MeanMeter], dict[str, MeanMeter]]:
    """Cross-entropy of the clean model and with every edit, and each edit's KL divergence from the clean model."""
    ce, kl = {name: MeanMeter() for name in ("clean", *edits)}, {name: MeanMeter() for name in edits}
    rows = max(1, PASS_TOKENS // tokens.shape[1])
    for start in range(0, len(tokens), rows):
        part, where = tokens[start : start + rows], spliced[start : start + rows]
        clean = _log_probs(lm, part)
        ce["clean"].update(_losses(clean, part))
        for name, edit in edits.items():
            with splice(lm, {site: edit}, where=where):
                edited = _log_probs(lm, part)
            ce[name].update(_losses(edited, part))
            for p, q in zip(clean.split(KL_ROWS), edited.split(KL_ROWS), strict=True):
                kl[name].update((p.exp() * (p - q)).sum(-1))
        advance(part.numel())
    return ce, kl


def _log_probs(lm: LM, tokens: Tensor) -> Tensor:
    """Log p of every prediction made from position 1 on: (predictions, vocabulary)."""
    return torch.log_softmax(lm.logits(tokens)[:, 1:-1].float().flatten(0, 1), -1)


def _losses(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """−log p(next token) of every prediction."""
    return F.nll_loss(log_probs, tokens[:, 2:].reshape(-1).to(log_probs.device), reduction="none")


def _fvus(saes: Mapping[str, SAE], acts: Tensor, spliced: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    within = {name: FvuMeter() for name in saes}
    beyond = {name: FvuMeter() for name in saes}
    for x, kept in zip(acts, spliced, strict=True):
        for name, sae in saes.items():
            x_hat = sae(x.to(sae.W_dec)).to(x)
            within[name].update(x[kept], x_hat[kept])
            beyond[name].update(x[1:], x_hat[1:])
    return {n: m.result() for n, m in within.items()}, {n: m.result() for n, m in beyond.items()}


def downstream_task(subjects: Subjects, config: DownstreamConfig, advance: Callable[[int], None]) -> Outcome:
    """The task of `matryo sae evaluate`.

    Raises:
        ValueError: the runs have no language model, or no tokens were asked for.
    """
    if not config.ce_tokens:
        raise ValueError("ce_tokens is 0; expected a number of tokens to run through the model")
    lm = subjects.lm
    tokens = torch.as_tensor(spread_rows(subjects.rows, config.ce_tokens)).long()
    found = measure_downstream(lm, tokens, str(subjects.site), subjects.saes, subjects.mean, config.ce_levels, advance)
    same = {key: getattr(found, key) for key in ("ce_clean", "ce_zero", "ce_mean", "kl_zero", "kl_mean")}
    scores = {
        name: {
            **same,
            "ce_spliced": found.ce_spliced[name],
            "ce_recovered": found.recovered[name],
            "kl_spliced": found.kl_spliced[name],
            "kl_recovered": found.kl_recovered[name],
            "fvu_spliced": found.fvu[name],
            "fvu_with_sinks": found.fvu_with_sinks[name],
        }
        for name in subjects.saes
    }
    notes = [
        f"{subjects.label}: CE over {found.tokens:,} predictions; position 0 and {found.sinks} sink tokens (norm above "
        f"{SINK_RATIO:g} × the median) stay unspliced in every condition.",
        *(
            f"{name}: FVU on these tokens {found.fvu[name]:.4f} without sinks, {found.fvu_with_sinks[name]:.4f} with."
            for name in found.fvu
        ),
    ]
    return Outcome(
        scores=scores,
        tables={"levels": _levels(found)} if found.level_ce else {},
        constants={"tokens": int(tokens.numel()), "predictions": found.tokens, "sink_ratio": SINK_RATIO},
        data=subjects.identity() | {"model": lm.identity()},
        notes=tuple(notes),
    )


def _levels(found: Downstream) -> Table:
    headers = (
        ("SAE", ""),
        ("level", "latents of the prefix, read alone"),
        ("CE", "the model's cross-entropy with the prefix's reconstruction, nats/token"),
        ("recovered", "(CE zero − CE) / (CE zero − CE clean)"),
        ("KL", "KL divergence of the clean model from the spliced one, nats/token"),
        ("KL recovered", "1 − KL / KL zero"),
    )
    rows = []
    for name, levels in found.level_ce.items():
        for level, ce in levels.items():
            kl = found.level_kl[name][level]
            recovered = ce_recovered(found.ce_clean, ce, found.ce_zero)
            rows.append((name, level, ce, recovered, kl, ce_recovered(0.0, kl, found.kl_zero)))
    return Table(headers, tuple(rows))
