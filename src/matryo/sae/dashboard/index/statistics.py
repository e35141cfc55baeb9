"""What is kept of every latent, one row each: the table that pages filter and sort."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matryo.sae.dashboard.index.invert import Counted

COLUMNS: dict[str, tuple[str, str]] = {
    "latent": ("<i4", "Number of the latent."),
    "level": ("<i2", "Matryoshka level, 0 for the smallest prefix."),
    "firings": ("<i8", "Tokens on which it is active."),
    "density": ("<f8", "Share of all tokens on which it is active."),
    "largest": ("<f4", "Its largest activation."),
    "mean": ("<f4", "Mean activation over the tokens on which it is active."),
    "q10": ("<f4", "10 % quantile of those activations."),
    "q25": ("<f4", "25 % quantile."),
    "q50": ("<f4", "Median."),
    "q75": ("<f4", "75 % quantile."),
    "q90": ("<f4", "90 % quantile."),
    "top_token": ("<i4", "Token id it is most often active on; −1 when it never is."),
    "top_share": ("<f4", "Share of its firings on that token id."),
    "entropy": ("<f4", "Entropy of the token ids it is active on, in bits."),
    "norm": ("<f4", "Norm of its decoder row."),
    "enc_dec": ("<f4", "Cosine of its encoder column and decoder row."),
    "twin": ("<i4", "Latent of the same SAE with the most similar decoder row; −1 if not computed."),
    "twin_cosine": ("<f4", "Cosine of the two rows."),
    "parent": ("<i4", "Latent of a lower level with the largest containment × cosine, both above thresholds; else −1."),
    "parent_containment": ("<f4", "P(parent fires | latent fires)."),
    "parent_cosine": ("<f4", "Cosine of the two decoder rows."),
    "x": ("<f4", "First principal component of unit decoder rows."),
    "y": ("<f4", "Second principal component."),
}
"""The table's columns: number format and meaning."""

DTYPE = np.dtype([(name, kind) for name, (kind, _) in COLUMNS.items()])


def tabulate(counted: Counted, n_tokens: int, **columns: NDArray[Any]) -> NDArray[Any]:
    """The table, from what was counted and further columns; a column that is not given is nan, or −1."""
    n = len(counted.firings)
    table = np.zeros(n, DTYPE)
    for name, (kind, _) in COLUMNS.items():
        table[name] = np.nan if kind[1] == "f" else -1
    table["latent"] = np.arange(n)
    table["firings"], table["density"] = counted.firings, counted.firings / max(1, n_tokens)
    for name in ("largest", "mean", "top_token", "top_share", "entropy"):
        table[name] = getattr(counted, name)
    for place, name in enumerate(("q10", "q25", "q50", "q75", "q90")):
        table[name] = counted.quantiles[:, place]
    for name, values in columns.items():
        table[name] = values
    return table
