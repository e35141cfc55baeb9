"""What latents respond to and promote, in a few tokens each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from matryo.sae.evaluate import collect_passages
from matryo.sae.lm import LM
from matryo.sae.nn import SAE
from matryo.sae.text import TokenRows


@dataclass(frozen=True)
class Label:
    """A latent in words."""

    top: tuple[str, ...]
    "Tokens on which it is most active, each once, the strongest first."
    promoted: tuple[str, ...]
    "Tokens whose logits its decoder row raises most, without the model's final norm."
    density: float
    "Share of tokens on which it is active."
    rows: tuple[int, ...]
    "Token rows with its strongest activations, the strongest first."
    ends: tuple[int, ...]
    "Position of the strongest token in each of those rows."

    @property
    def short(self) -> str:
        """For a caption: the three strongest tokens."""
        return " ".join(f"«{piece}»" for piece in self.top[:3])


@torch.no_grad()
def label_latents(
    sae: SAE,
    chunks: Callable[[], Iterable[tuple[int, Tensor]]],
    rows: TokenRows,
    lm: LM,
    choose: Callable[[Tensor, Tensor], Sequence[int]],
    count: int = 8,
) -> dict[int, Label]:
    """Label chosen latents, in one pass over activations in token order.

    Args:
        sae: takes raw activations.
        chunks: gives (number of the first token, activations), as for `collect_passages`.
        rows: the token rows these are of.
        lm: decodes tokens, and has the unembedding.
        choose: from every latent's density and number of firings to the latents wanted.
        count: tokens in each list.
    """
    found = collect_passages(sae, chunks, rows.tokens.shape[1], choose, 4 * count, 0)
    unembed = lm.unembed().float()
    labels = {}
    for item in found:
        logits = sae.W_dec[item.latent].detach().to(unembed) @ unembed
        best = torch.topk(logits, count).indices.tolist()
        peaks = [int(rows.tokens[passage.row][passage.peak]) for passage in item.passages]
        labels[item.latent] = Label(
            top=tuple(list(dict.fromkeys(lm.decode_tokens(peaks)))[:count]),
            promoted=tuple(lm.decode_tokens(best)),
            density=item.density,
            rows=tuple(passage.row for passage in item.passages),
            ends=tuple(passage.peak for passage in item.passages),
        )
    return labels
