"""Edits of single latents by their meta-latents, as functions of activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from matryo.sae.compare.meta.decompose import decompose
from matryo.sae.compare.meta.fit import decoder_directions
from matryo.sae.nn import SAE


@dataclass(frozen=True, kw_only=True)
class MetaEdit:
    """What to change in one latent's direction."""

    latent: int
    "The latent."
    remove: tuple[int, ...] = ()
    "Meta-latents to take out, as far as it has them."
    add: tuple[tuple[int, float], ...] = ()
    "Meta-latents to put in, each with its activation (those of a decomposition are the natural unit)."
    whole: bool = False
    "Take the whole latent out first: with nothing added, an ablation of it."
    keep_norm: bool = False
    "Bring the edited direction back to its former norm."


class MetaSteering:
    """x ↦ x + Σ_e z_e(x) Δw_e: what the SAE writes for the edited latents changes, everything else of x stays.

    With w_i = ‖W_dec[i]‖ d_i and d_i ≈ b + Σ_m a_im v_m the meta-SAE's view of its direction,

        Δw_i = ‖W_dec[i]‖ (d′_i − d_i),    d′_i = d_i − Σ_{m removed} a_im v_m + Σ_{m added} s_m v_m.

    The SAE's error term is kept by construction: where no edited latent is active x comes back unchanged. The object
    takes the place of an activation in a model by `matryo.sae.lm.splice(lm, {site: steering})`.
    """

    def __init__(self, sae: SAE, meta: SAE, edits: Sequence[MetaEdit]) -> None:
        """Work out the change of every edited decoder row.

        Raises:
            ValueError: no edit, a latent or meta-latent that does not exist, or one latent edited twice.
        """
        self.sae = sae.eval()
        latents = [edit.latent for edit in edits]
        if not edits or len(set(latents)) < len(latents):
            raise ValueError(f"the edits are of latents {latents}; expected one edit for each of one or more latents")
        for edit in edits:
            _check_number("latent", edit.latent, len(sae.W_dec))
            for number in (*edit.remove, *(m for m, _ in edit.add)):
                _check_number("meta-latent", number, len(meta.W_dec))
        index = torch.tensor(latents)
        change = _direction_changes(decoder_directions(sae).cpu()[index], meta, edits)
        norms = torch.linalg.vector_norm(sae.W_dec.detach()[index.to(sae.W_dec.device)], dim=1, keepdim=True)
        self.change = change.to(sae.W_dec) * norms
        "Δw_e (edits, d) in the units of W_dec."
        self._place = torch.full((len(sae.W_dec),), -1)
        self._place[index] = torch.arange(len(edits))

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "*tokens d"]) -> Float[Tensor, "*tokens d"]:
        """The edited activations; x itself where no edited latent is active on any token."""
        flat = x.reshape(-1, x.shape[-1]).to(self.sae.W_dec)
        entries = self.sae.encode_sparse(flat)
        place = self._place.to(entries.latent.device)[entries.latent]
        mine = place >= 0
        if not bool(mine.any()):
            return x
        added = torch.zeros_like(flat)
        added.index_add_(0, entries.row[mine], entries.value[mine, None] * self.change[place[mine]])
        return x + added.view(x.shape).to(x)


def _direction_changes(directions: Tensor, meta: SAE, edits: Sequence[MetaEdit]) -> Tensor:
    """d′_e − d_e of every edit."""
    # A rule that looks at a whole batch (training mode) is not in use here: rows are decomposed one by one alike.
    parts, vectors = decompose(meta, directions), meta.W_dec.detach().float().cpu()
    edited = directions.clone()
    for place, edit in enumerate(edits):
        if edit.whole:
            edited[place] = 0
        for part in parts.of_latent(place):
            if part.meta in edit.remove and not edit.whole:
                edited[place] -= part.activation * vectors[part.meta]
        for number, strength in edit.add:
            edited[place] += strength * vectors[number]
        norm = torch.linalg.vector_norm(edited[place])
        if edit.keep_norm and norm > 0:
            edited[place] /= norm
    return edited - directions


def _check_number(name: str, number: int, count: int) -> None:
    if not 0 <= number < count:
        raise ValueError(f"{name} is {number}; expected 0 to {count - 1}")
