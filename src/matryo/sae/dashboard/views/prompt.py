"""The prompt lab: a text through the model, and which latents are active on which of its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from matryo.sae.dashboard.index.opened import IndexedSAE
from matryo.sae.dashboard.views.latent import chip
from matryo.sae.dashboard.views.query import Query

if TYPE_CHECKING:
    from torch import Tensor

    from matryo.sae.dashboard.server.live import Live

SORTS = {
    "max": "largest activation",
    "specificity": "specificity",
    "logit": "contribution to the next token's logit",
    "token": "on the chosen token",
}
MOST_TOKENS = 256
SHOWN = 40
LONGEST = 8_192


def prompt_view(sae: IndexedSAE, live: Live | None, query: Query) -> dict[str, Any]:
    """Tokens, active latents, and what the reconstruction costs on one text, or on two side by side.

    With a the activation of a latent on a token, largest and density those of the indexed text:

        specificity   = max a / largest · (−log₁₀ density)
        contribution  = max over tokens of a · (W_dec row · W_U[:, next token] − mean over the vocabulary),

    at tokens that have a next one, without the model's final norm.
    """
    text, other = query.text("text", longest=LONGEST), query.text("other", longest=LONGEST)
    view: dict[str, Any] = {
        "sae": sae.name,
        "text": text,
        "other": other,
        "sort": query.choice("sort", SORTS, "max"),
        "chosen": query.whole("chosen", 0, 0, MOST_TOKENS),
        "most_density": query.number("density", 1.0, 0, 1),
        "latent": query.whole("latent", -1, -1, sae.n_latents - 1),
        "state": live.state if live else "the server was started without a model (--no-model)",
        "result": None,
        "contrast": None,
    }
    if not text.strip():
        return view
    if live is None:
        raise ValueError("this page needs the language model; expected a server started without --no-model")
    first = _run(sae, live, text)
    view["result"] = _listed(sae, first, view)
    if other.strip():
        view["contrast"] = _contrast(sae, first, _run(sae, live, other))
    return view


def _run(sae: IndexedSAE, live: Live, text: str) -> dict[str, Any]:
    """Activations, losses and attributions of one text."""
    import torch

    from matryo.sae.lm import splice

    lm, weights = live.lm(), live.sae(sae.name)
    ids = lm.encode([text])[0]
    cut = len(ids) > MOST_TOKENS
    ids = ids[:MOST_TOKENS]
    if not ids:
        raise ValueError("the text has no tokens; expected some text")
    tokens = torch.tensor([[lm.bos_id, *ids]])
    site = sae.told["site"]
    seen: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        seen.append(value.clone())
        return value

    with live.lock, torch.no_grad():
        with splice(lm, {site: keep}):  # one pass gives the activations and the losses
            clean = _losses(lm.logits(tokens), tokens)
        x = seen[0][0, 1:].float()
        entries = weights.encode_sparse(x.to(weights.W_dec))
        x_hat = weights.decode_sparse(entries).float()
        where = torch.ones_like(tokens, dtype=torch.bool)
        where[:, 0] = False  # BOS is no text
        with splice(lm, {site: weights}, where=where):
            spliced = _losses(lm.logits(tokens), tokens)
        contribution = _contributions(lm, weights, entries, ids)
    spread = float((x - x.mean(0)).square().sum())
    return {
        "ids": ids,
        "pieces": lm.decode_tokens(ids),
        "cut": cut,
        "row": entries.row.cpu().numpy(),
        "latent": entries.latent.cpu().numpy(),
        "act": entries.value.cpu().numpy(),
        "contribution": contribution,
        "fvu": float((x - x_hat).square().sum()) / spread if spread else None,
        "l0": len(entries.latent) / len(ids),
        "ce_clean": float(clean.mean()) if len(clean) else None,
        "ce_spliced": float(spliced.mean()) if len(spliced) else None,
        "losses": [None, *clean.tolist()],
    }


def _losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """−log p of every token of the text from the second on; the first has only BOS before it."""
    import torch.nn.functional as F

    return F.cross_entropy(logits[0, 1:-1].float(), tokens[0, 2:].to(logits.device), reduction="none")


def _contributions(lm: Any, weights: Any, entries: Any, ids: list[int]) -> np.ndarray:
    """What every active latent adds to the logit of the token that follows; 0 at the last token."""
    import torch

    try:
        unembed = lm.unembed()
    except ValueError:
        return np.zeros(len(entries.latent))
    if unembed.shape[0] != weights.W_dec.shape[1]:
        return np.zeros(len(entries.latent))
    follow = torch.tensor([*ids[1:], ids[-1]])
    wanted = (unembed[:, follow] - unembed.mean(1, keepdim=True)).t().to(weights.W_dec)
    added = entries.value * (weights.W_dec[entries.latent] * wanted[entries.row]).sum(1)
    added[entries.row == len(ids) - 1] = 0
    return added.float().cpu().numpy()


def _listed(sae: IndexedSAE, run: dict[str, Any], view: dict[str, Any]) -> dict[str, Any]:
    """The result with its most interesting latents."""
    stats, n = sae.stats, len(run["ids"])
    latents, member = np.unique(run["latent"], return_inverse=True)
    largest, contribution = np.zeros(len(latents)), np.full(len(latents), -np.inf)
    np.maximum.at(largest, member, run["act"])
    np.maximum.at(contribution, member, run["contribution"])
    density = stats["density"][latents]
    rarity = -np.log10(np.maximum(density, 0.5 / sae.index.corpus.n_tokens))
    specificity = largest / np.maximum(stats["largest"][latents], 1e-9) * rarity
    at_token = np.zeros(len(latents))
    chosen = view["chosen"]
    if 0 < chosen <= n:
        here = run["row"] == chosen - 1
        at_token[member[here]] = run["act"][here]
    score = {"max": largest, "specificity": specificity, "logit": contribution, "token": at_token}[view["sort"]]
    fit = (density <= view["most_density"]) | (latents == view["latent"])
    if view["sort"] == "token":
        fit &= at_token > 0
    first = latents != view["latent"]
    order = [i for i in np.lexsort((latents, -score, first)) if fit[i]][:SHOWN]
    rows = []
    for i in order:
        mine = member == i
        values = np.zeros(n)
        values[run["row"][mine]] = run["act"][mine]
        rows.append(
            {
                **chip(sae, int(latents[i])),
                "values": [round(float(v), 5) for v in values],
                "max": float(largest[i]),
                "of_largest": float(largest[i] / max(1e-9, float(stats["largest"][latents[i]]))),
                "specificity": float(specificity[i]),
                "contribution": float(contribution[i]),
            }
        )
    numbers = {key: run[key] for key in ("pieces", "cut", "fvu", "l0", "ce_clean", "ce_spliced", "losses")}
    per_token = np.bincount(run["row"], minlength=n).tolist()
    return {**numbers, "rows": rows, "n_active": len(latents), "per_token": per_token}


def _contrast(sae: IndexedSAE, first: dict[str, Any], second: dict[str, Any], count: int = 15) -> dict[str, Any]:
    """Latents whose largest activations in two texts differ most, in units of the largest on the indexed text."""
    largest = np.zeros((2, sae.n_latents))
    for row, run in zip(largest, (first, second), strict=True):
        np.maximum.at(row, run["latent"], run["act"])
    gap = (largest[0] - largest[1]) / np.maximum(sae.stats["largest"], 1e-9)
    sides = {}
    for side, sign in (("first", 1), ("second", -1)):
        order = np.argsort(-sign * gap, kind="stable")[:count]
        sides[side] = [
            {**chip(sae, int(i)), "first": float(largest[0, i]), "second": float(largest[1, i]), "gap": float(gap[i])}
            for i in order
            if sign * gap[i] > 0
        ]
    return sides | {"pieces": second["pieces"], "fvu": second["fvu"], "ce_clean": second["ce_clean"]}
