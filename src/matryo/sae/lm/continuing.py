"""Activations of many endings of one prompt, the prompt run once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from matryo.sae.lm.capturing import capture, read_sites
from matryo.sae.lm.families import family_of
from matryo.sae.lm.hooks import passes_are_whole
from matryo.sae.lm.sites import resolve_site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from matryo.sae.lm.model import LM


@torch.no_grad()
def capture_endings(
    lm: LM, prompt: Int[Tensor, "pos"], endings: Int[Tensor, "rows more"], site: str
) -> Float[Tensor, "rows more d"]:
    """Activations of every ending's tokens, as they are in the rows prompt + ending.

    The prompt goes through the model once and every ending attends to its keys and values, so that N endings of one
    token cost pos + N tokens instead of N · (pos + 1). Models that are not of a known Hugging Face family read whole
    rows; so does everything inside `splice`. Both ways agree up to rounding.

    Args:
        lm: the model.
        prompt: token ids, BOS included.
        endings: token ids, all endings of the same length.
        site: name of the site (see `resolve_site`).

    Raises:
        ValueError: as `capture`.
    """
    rows = torch.cat([prompt.expand(len(endings), -1), endings], dim=1)
    if not lm.is_hf or family_of(lm.model) is None or passes_are_whole():
        return capture(lm, rows, [site])[site][:, len(prompt) :]
    from transformers import DynamicCache

    lm.checked(rows)
    wanted, model = [resolve_site(lm, site)], lm.model
    cache = DynamicCache()
    read_sites(lm, 1, wanted, lambda: model(input_ids=rows[:1, : len(prompt)].to(lm.device), past_key_values=cache))
    cache.batch_repeat_interleave(len(endings))
    found = read_sites(lm, len(endings), wanted, lambda: model(input_ids=endings.to(lm.device), past_key_values=cache))
    return found[wanted[0]].clone()
