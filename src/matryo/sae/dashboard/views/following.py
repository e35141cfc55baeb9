"""Logits of the token that follows a text, without those of all the tokens in it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from matryo.sae.lm import LM


def last_logits(lm: LM, tokens: Tensor) -> Tensor:
    """(vocabulary,): log-probabilities of what follows the one row of tokens.

    A large vocabulary makes the logits of a whole row most of the work of a small model; Hugging Face's causal models
    can be asked for the last ones only.
    """
    import torch

    with torch.no_grad():
        if lm.is_hf and "logits_to_keep" in inspect.signature(lm.model.forward).parameters:
            ids = lm.checked(tokens).to(lm.device)
            logits = lm.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
        else:
            logits = lm.logits(tokens)
    return logits[0, -1].float().log_softmax(-1).cpu()
