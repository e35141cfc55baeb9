"""One latent in the shape of Neuronpedia's feature JSON, as far as an index knows it."""

from __future__ import annotations

from typing import Any

import numpy as np

from matryo.sae.dashboard.index.opened import IndexedSAE
from matryo.sae.dashboard.views.examples import examples
from matryo.sae.dashboard.views.latent import logits_of, neurons_of, together_view
from matryo.sae.dashboard.views.query import Query


def neuronpedia(sae: IndexedSAE, latent: int) -> dict[str, Any]:
    """The feature's JSON: names as Neuronpedia has them, values from the index.

    `frac_nonzero` is the density, `freq_hist_data_*` the histogram of activations, `topkCosSimIndices` decoder
    neighbours, `neuron_alignment_l1` shares of Σ|w|. DFA, of attention SAEs only, is left out.
    """
    row = sae.stats[sae.check(latent)]
    told = sae.index.manifest["about"]
    logits = logits_of(sae, latent)
    counts, largest = sae.histograms[latent], float(row["largest"])
    width = largest / len(counts)
    cosines = sae.cosines(latent)
    neurons = neurons_of(sae, latent)
    # Its own cosine need not be the largest: another row may be the same, or its own be 0.
    order = np.argsort(-cosines, kind="stable")
    near = order[order != latent][:10]
    shown = examples(sae, latent, Query({"before": "64", "after": "32"}))["groups"][0]["examples"]
    return {
        "modelId": told["lm"],
        "layer": sae.name,
        "index": str(latent),
        "hookName": sae.told["site"],
        "maxActApprox": largest,
        "frac_nonzero": float(row["density"]),
        "freq_hist_data_bar_heights": counts.tolist(),
        "freq_hist_data_bar_values": [round(width * (i + 0.5), 6) for i in range(len(counts))],
        "pos_str": [t["piece"] for t in logits["top"]] if logits else [],
        "pos_values": [t["value"] for t in logits["top"]] if logits else [],
        "neg_str": [t["piece"] for t in logits["low"]] if logits else [],
        "neg_values": [t["value"] for t in logits["low"]] if logits else [],
        "neuron_alignment_indices": [n["neuron"] for n in neurons],
        "neuron_alignment_values": [n["value"] for n in neurons],
        "neuron_alignment_l1": [n["share"] for n in neurons],
        "topkCosSimIndices": near.tolist(),
        "topkCosSimValues": [float(cosines[i]) for i in near],
        "correlated_features_indices": [r["latent"] for r in together_view(sae, latent)["by"]["jaccard"]],
        "activations": [
            {
                "tokens": e["pieces"],
                "values": e["values"],
                "maxValue": max(e["values"]),
                "maxValueTokenIndex": e["token"] - e["first"],
                "dataIndex": str(e["row"]),
            }
            for e in shown
        ],
    }
