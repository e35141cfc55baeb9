"""Steering: the model with latents added, clamped, ablated, projected out or rebuilt, beside the model as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryo.sae.dashboard.index.opened import IndexedSAE
from matryo.sae.dashboard.views.following import last_logits
from matryo.sae.dashboard.views.latent import chip
from matryo.sae.dashboard.views.live_latent import model_of
from matryo.sae.dashboard.views.meta_edit import asked_edit, edited_rows, steering_of
from matryo.sae.dashboard.views.query import Query

if TYPE_CHECKING:
    from torch import Tensor

    from matryo.sae.dashboard.server.live import Live

EDITS = {
    "add": "add strength × largest",
    "clamp": "set to strength × largest",
    "ablate": "set to 0",
    "project": "project its direction out",
    "meta": "change its meta-latents",
}
POSITIONS = {"all": "every token", "last": "the last token"}
SWEEP = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0)
TOKENS = 12
MOST_TOKENS = 192
MOST_NEW = 40
MOST_SAID = 24
MOST_LATENTS = 16


def steer_view(sae: IndexedSAE, live: Live | None, query: Query, runs: Path | None = None) -> dict[str, Any]:
    """Next-token probabilities with and without the edit, their divergence, a sweep of strengths, and continuations.

    With x the activation at the SAE's site, z its latents, d_j the decoder row of latent j, m_j its largest activation
    on the indexed text and s the strength, every chosen latent changes x by

        add:     s m_j d_j
        clamp:   (s m_j − z_j) d_j
        ablate:  −z_j d_j
        project: −P x, with P the projection on the span of the chosen rows (all at once)
        meta:    z_j ‖d_j‖ (Σ_{m put in} s_m v_m − Σ_{m taken out} a_jm v_m), with v_m the rows of the meta-SAE and a_jm
                 the activations of d_j / ‖d_j‖ in it (`matryo.sae.compare.meta.MetaSteering`)

    so that what the SAE does not reconstruct stays. BOS is never edited. KL(clean ‖ edited) is over the token that
    follows the text, in nats. Continuations are drawn with the same random numbers; a given one has its log-probability
    with and without the edit.
    """
    asked = query.text("latent", longest=200)
    view: dict[str, Any] = {
        "sae": sae.name,
        "text": query.text("text", longest=8_192),
        "latents": _numbers(sae, asked),
        "asked": asked,
        "edit": query.choice("edit", EDITS, "add"),
        "strength": query.number("strength", 1.0, -100, 100),
        "at": query.choice("at", POSITIONS, "all"),
        "new": query.whole("new", 0, 0, MOST_NEW),
        "seed": query.whole("seed", 0),
        "temperature": query.number("temperature", 0.8, 0.0, 5.0),
        "sweep": query.flag("sweep"),
        "said": query.text("said", longest=400),
        "state": live.state if live else "the server was started without a model (--no-model)",
        "result": None,
    }
    view["chips"] = [chip(sae, latent) for latent in view["latents"]]
    view["meta"] = asked_edit(sae, runs, query, view["latents"])
    changes = view["edit"] != "meta" or view["meta"]["out"] or view["meta"]["put"]
    if view["text"].strip() and view["latents"] and changes:
        view["result"] = _steered(sae, model_of(live), view, runs)
    return view


def _numbers(sae: IndexedSAE, text: str) -> list[int]:
    found = []
    for word in text.replace(",", " ").split():
        if not (word.isascii() and word.isdigit() and len(word) < 10):
            raise ValueError(f"latent is {word[:40]!r}; expected numbers of latents, separated by commas")
        found.append(sae.check(int(word)))
    if len(found) > MOST_LATENTS:
        raise ValueError(f"there are {len(found)} latents; expected at most {MOST_LATENTS}")
    return list(dict.fromkeys(found))


class Edit:
    """The change of one site, as a function for `splice`."""

    def __init__(
        self, weights: Any, view: dict[str, Any], largest: list[float], strength: float, steering: Any = None
    ) -> None:
        import torch

        self.weights, self.latents, self.edit, self.at = weights, view["latents"], view["edit"], view["at"]
        self.steering = steering
        self.rows = weights.W_dec[self.latents].detach()
        self.target = strength * torch.tensor(largest, dtype=self.rows.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """The edited activations (rows, positions, d); position 0 stays."""
        given = x.to(self.rows)
        if self.edit == "project":
            basis = self._basis()
            change = -(given @ basis.t()) @ basis
        elif self.edit == "meta":
            change = self.steering(given) - given
        else:
            change = self._weights(given) @ self.rows
        edited = x.clone()
        part = slice(x.shape[1] - 1, None) if self.at == "last" else slice(1, None)
        edited[:, part] += change[:, part].to(x)
        return edited

    def _weights(self, x: Tensor) -> Tensor:
        """What each latent's row is multiplied with."""
        if self.edit == "add":
            return self.target.expand(*x.shape[:2], len(self.latents))
        z = self.weights.encode(x)[..., self.latents].detach()
        return self.target - z if self.edit == "clamp" else -z

    def _basis(self) -> Tensor:
        """Orthonormal rows that span the chosen directions."""
        import torch

        _, s, v = torch.linalg.svd(self.rows, full_matrices=False)
        return v[s > 1e-6 * s.max()]


def _steered(sae: IndexedSAE, live: Live, view: dict[str, Any], runs: Path | None) -> dict[str, Any]:
    import torch

    from matryo.sae.lm import splice

    lm, weights, site = live.lm(), live.sae(sae.name), sae.told["site"]
    ids = lm.encode([view["text"]])[0][-MOST_TOKENS:]
    if not ids:
        raise ValueError("the text has no tokens; expected some text")
    tokens = torch.tensor([[lm.bos_id, *ids]])
    largest = [float(sae.stats["largest"][latent]) for latent in view["latents"]]
    steering = steering_of(sae, weights, view["latents"], view["meta"], runs) if view["edit"] == "meta" else None
    said = lm.encode([view["said"]])[0] if view["said"] else []
    if len(said) > MOST_SAID:
        raise ValueError(f"the continuation has {len(said)} tokens; expected at most {MOST_SAID}")

    def edit(strength: float) -> Edit:
        return Edit(weights, view, largest, strength, steering)

    with live.lock, torch.no_grad():
        clean = last_logits(lm, tokens)
        with splice(lm, {site: edit(view["strength"])}):
            edited = last_logits(lm, tokens)
        sweep = []
        for strength in SWEEP if view["sweep"] and view["edit"] in ("add", "clamp") else ():
            with splice(lm, {site: edit(strength)}):
                there = last_logits(lm, tokens)
            sweep.append(
                {"strength": strength, "kl": _kl(clean, there), "top": lm.decode_tokens([int(there.argmax())])[0]}
            )
        texts = {}
        if view["new"]:
            texts["clean"] = _continue(lm, tokens, view)
            with splice(lm, {site: edit(view["strength"])}):
                texts["edited"] = _continue(lm, tokens, view)
        spoken = None
        if said:
            spoken = {"tokens": len(said), "clean": _log_probability(lm, tokens, said)}
            with splice(lm, {site: edit(view["strength"])}):
                spoken["edited"] = _log_probability(lm, tokens, said, view["at"] == "last")
        rows = _rows(sae, lm, weights, view["latents"], steering) if steering else []
    found = {"kl": _kl(clean, edited), "next": _next(lm, clean, edited), "sweep": sweep, "continuations": texts}
    return found | {"said": spoken, "rows": rows}


def _rows(sae: IndexedSAE, lm: Any, weights: Any, latents: list[int], steering: Any) -> list[dict[str, Any]]:
    """Decoder rows before and after, with the tokens they raise where the model has an unembedding."""
    try:
        unembed = lm.unembed().float().cpu()
    except ValueError:
        unembed = None
    return edited_rows(weights, latents, steering, unembed, sae.index.corpus.piece)


def _log_probability(lm: Any, tokens: Tensor, said: list[int], one_by_one: bool = False) -> float:
    """Sum of log p of some tokens after others, in nats; one by one where the edit is of the last token only."""
    import torch

    whole, n = torch.cat([tokens, torch.tensor([said])], 1), tokens.shape[1]
    if one_by_one:
        return sum(float(last_logits(lm, whole[:, : n + i])[token]) for i, token in enumerate(said))
    logs = lm.logits(whole)[0, n - 1 : -1].float().log_softmax(-1).cpu()
    return float(logs.gather(1, torch.tensor(said)[:, None]).sum())


def _kl(clean: Tensor, edited: Tensor) -> float:
    return max(0.0, float((clean.exp() * (clean - edited)).sum()))


def _next(lm: Any, clean: Tensor, edited: Tensor) -> list[dict[str, Any]]:
    """The most likely next tokens of either, with both probabilities, by the larger one."""
    import torch

    ids = torch.cat([torch.topk(clean, TOKENS).indices, torch.topk(edited, TOKENS).indices]).unique()
    ids = ids[torch.maximum(clean[ids], edited[ids]).argsort(descending=True)].tolist()
    return [
        {"token_id": i, "piece": piece, "clean": float(clean[i].exp()), "edited": float(edited[i].exp())}
        for i, piece in zip(ids, lm.decode_tokens(ids), strict=True)
    ]


def _continue(lm: Any, tokens: Tensor, view: dict[str, Any]) -> str:
    """The text that follows, token by token; greedy at temperature 0."""
    import torch

    generator = torch.Generator().manual_seed(view["seed"])
    new: list[int] = []
    for _ in range(view["new"]):
        logits = last_logits(lm, tokens)
        draw = torch.rand(1, generator=generator)
        if view["temperature"] == 0:
            chosen = int(logits.argmax())
        else:
            order = logits.sort(descending=True)
            below = (order.values / view["temperature"]).softmax(-1).cumsum(-1) < draw
            chosen = int(order.indices[min(int(below.sum()), len(logits) - 1)])
        new.append(chosen)
        tokens = torch.cat([tokens, torch.tensor([[chosen]])], 1)
    return lm.decode(new)
