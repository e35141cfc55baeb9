"""What the SAEs of a run were trained on, opened: the model, token rows, the mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from matryo.sae.lm import LM
    from matryo.sae.text import TokenRows


def spread_rows(rows: TokenRows, tokens: int) -> Any:
    """About `tokens` tokens as whole rows, evenly spread over the split."""
    import numpy as np

    count = min(len(rows.tokens), max(1, round(tokens / rows.tokens.shape[1])))
    return rows.tokens[np.linspace(0, len(rows.tokens) - 1, count).round().astype(int)]


def site_mean(store_source: str | None) -> Tensor | None:
    """The site's mean activation on training text, where a store has it."""
    import torch

    from matryo.sae.store import ActivationStore, open_activations

    if not store_source:
        return None
    store = open_activations(store_source)
    return torch.tensor(store.manifest["mean"]) if isinstance(store, ActivationStore) else None


def open_model(
    outputs: dict[str, Any],
    device: str = "cpu",
    lm_dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> tuple[LM, TokenRows] | tuple[None, None]:
    """The language model and held-out rows of a training run's outputs (as `located` gives them), where it has both."""
    if not outputs.get("lm") or not outputs.get("rows"):
        return None, None
    from matryo.sae.lm import load_lm, processed
    from matryo.sae.text import TokenRows

    rows = TokenRows.load(Path(outputs["rows"]) / "heldout")
    # Adopted SAEs may have been trained on processed weights.
    return processed(load_lm(outputs["lm"], device, lm_dtype), outputs.get("processing") or {}), rows
