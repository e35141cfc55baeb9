"""Search: a number is a latent, anything else is looked for in labels and in the text."""

from __future__ import annotations

from typing import Any

import numpy as np

from matryo.sae.dashboard.index.opened import IndexedSAE
from matryo.sae.dashboard.views.latent import chip

SHOWN = 40
LEAST_TOGETHER = 3
"""Places on which a latent must be active to be listed."""

PASSAGES = 8


def phrase_view(sae: IndexedSAE, phrase: str, fold_case: bool) -> dict[str, Any]:
    """Where a phrase stands in the text, and the latents that are active there.

    The places are the last tokens of its occurrences. For a latent with firings F and the places P:

        precision = |F ∩ P| / |F|,  recall = |F ∩ P| / |P|,  lift = precision · tokens / |P|,
        F1 = 2 · precision · recall / (precision + recall)
    """
    places = sae.index.corpus.find(phrase, fold_case)
    return found_view(sae, places) | {"phrase": phrase, "fold_case": fold_case}


def found_view(sae: IndexedSAE, places: np.ndarray) -> dict[str, Any]:
    """Latents active on some tokens, by F1."""
    corpus, firings = sae.index.corpus, sae.stats["firings"].astype(np.float64)
    together = sae.together(places) if len(places) else np.zeros(sae.n_latents, np.int64)
    precision = together / np.maximum(1, firings)
    recall = together / max(1, len(places))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    fit = np.flatnonzero(together >= min(LEAST_TOGETHER, max(1, len(places))))
    order = fit[np.lexsort((fit, -f1[fit]))][:SHOWN]
    rows = [
        {
            **chip(sae, int(i)),
            "together": int(together[i]),
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "lift": float(precision[i] * corpus.n_tokens / max(1, len(places))),
            "f1": float(f1[i]),
        }
        for i in order
    ]
    passages = []
    for token in places[:: max(1, len(places) // PASSAGES)][:PASSAGES].tolist():
        first, last = corpus.window(token, 20, 8)
        row, position = corpus.place(token)
        pieces = [corpus.piece(int(i)) for i in corpus.token_ids[first:last]]
        marks = [1.0 if first + i == token else 0.0 for i in range(last - first)]
        passages.append(
            {
                "token": token,
                "first": first,
                "row": row,
                "position": position,
                "pieces": pieces,
                "values": marks,
                "document": corpus.document(token),
                "activation": 1.0,
                "similar": 1,
            }
        )
    return {"sae": sae.name, "places": len(places), "rows": rows, "passages": passages}
