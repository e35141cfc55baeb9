"""What of a latent needs the model: near misses, effects of ablation, and logits that were not indexed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from matryo.sae.dashboard.index.opened import IndexedSAE
from matryo.sae.dashboard.views.examples import distinct, draw, passage, silent_tokens
from matryo.sae.dashboard.views.following import last_logits

if TYPE_CHECKING:
    from matryo.sae.dashboard.server.live import Live

SAMPLED_ROWS = 24
MISSES = 12
EFFECTS = 8
TOKENS = 6


def model_of(live: Live | None) -> Live:
    """The model's keeper.

    Raises:
        ValueError: the server was started without one.
    """
    if live is None:
        raise ValueError("this needs the language model; expected a server started without --no-model")
    return live


def misses_view(sae: IndexedSAE, latent: int, live: Live | None) -> dict[str, Any]:
    """Tokens on which the latent is not active, by falling pre-activation, of rows with its token and others at random.

    The pre-activation is (x − b_dec) · W_enc column + b_enc. Of gated SAEs it is the gate's.
    """
    import torch

    from matryo.sae.lm import capture

    live = model_of(live)
    sae.check(latent)
    corpus = sae.index.corpus
    near = [t // corpus.per_row for t in draw(silent_tokens(sae, latent), SAMPLED_ROWS // 2, "misses", latent)]
    others = draw(np.arange(len(corpus.rows.tokens)), SAMPLED_ROWS // 2, "misses", latent, "others")
    rows = sorted({*near, *others})
    lm, weights, site = live.lm(), live.sae(sae.name), sae.told["site"]
    tokens = torch.from_numpy(np.array(corpus.rows.tokens[rows])).long()
    with live.lock, torch.no_grad():
        x = capture(lm, tokens, [site])[site][:, 1:].to(weights.W_dec)
        centred = x if weights.config.transcoder else x - weights.b_dec
        pre = (centred @ weights.W_enc[:, latent] + weights.b_enc[latent]).float().cpu().numpy()
    numbers = np.array(rows)[:, None] * corpus.per_row + np.arange(corpus.per_row)
    quiet = ~np.isin(numbers, np.asarray(sae.firings(latent)[0]))
    flat, at = pre[quiet], numbers[quiet]
    order = np.argsort(-flat, kind="stable")[:MISSES]
    examples = [passage(sae, latent, int(at[i]), 24, 6) | {"activation": float(flat[i])} for i in order]
    _, acts = sae.firings(latent)
    least = float(acts[-1]) if len(acts) else None
    return {
        "sae": sae.name,
        "latent": latent,
        "rows": len(rows),
        "smallest": least,
        "examples": examples,
        "largest": float(sae.stats["largest"][latent]),
    }


def effects_view(sae: IndexedSAE, latent: int, live: Live | None) -> dict[str, Any]:
    """What the next token's probabilities become when the latent is removed at its strongest passages.

    x − a · W_dec row in place of x at the one token, the rest of the model as it is: KL(clean ‖ ablated) in nats, and
    the tokens whose probability changes most. Only the row up to the token is run.
    """
    import torch

    from matryo.sae.lm import capture, splice

    live = model_of(live)
    tokens, _ = sae.firings(sae.check(latent))
    chosen, _ = distinct(sae, tokens[:500], EFFECTS)
    lm, weights, site, corpus = live.lm(), live.sae(sae.name), sae.told["site"], sae.index.corpus
    found = []
    for token in chosen:
        row, position = corpus.place(token)
        ids = torch.from_numpy(np.array(corpus.rows.tokens[row : row + 1, : position + 1])).long()
        with live.lock, torch.no_grad():
            x = capture(lm, ids, [site])[site][0, -1:].to(weights.W_dec)
            act = float(weights.encode(x)[0, latent])
            change = act * weights.W_dec[latent].detach()

            def remove(value: torch.Tensor, change: torch.Tensor = change) -> torch.Tensor:
                out = value.clone()
                out[:, -1] -= change.to(value)
                return out

            clean = last_logits(lm, ids)
            with splice(lm, {site: remove}):
                ablated = last_logits(lm, ids)
        kl = float((clean.exp() * (clean - ablated)).sum())
        moved = ablated.exp() - clean.exp()
        sides = {}
        for side, sign in (("lost", -1), ("gained", 1)):
            top = torch.topk(sign * moved, TOKENS).indices.tolist()
            sides[side] = [
                {"piece": corpus.piece(i), "before": float(clean[i].exp()), "after": float(ablated[i].exp())}
                for i in top
            ]
        found.append({"example": passage(sae, latent, token, 24, 0), "activation": act, "kl": kl, **sides})
    return {"sae": sae.name, "latent": latent, "largest": float(sae.stats["largest"][latent]), "effects": found}


def logits_view(sae: IndexedSAE, latent: int, live: Live | None) -> dict[str, Any]:
    """The logits of one decoder row through the model's unembedding, for an index that has none."""
    from matryo.sae.dashboard.index.directions import read_logits
    from matryo.sae.dashboard.views.examples import pieces_of

    live = model_of(live)
    row = live.sae(sae.name).W_dec[sae.check(latent) : latent + 1].detach().cpu()
    found = read_logits(row, live.lm().unembed().float().cpu())
    ends = {}
    for end in ("top", "low"):
        ids, values = getattr(found, f"{end}_token")[0], getattr(found, end)[0]
        told = zip(ids, pieces_of(sae, ids), values, strict=True)
        ends[end] = [{"token_id": int(i), "piece": piece, "value": float(v)} for i, piece, v in told]
    return {"sae": sae.name, "latent": latent, **ends}
