"""Results in SAEBench's own format: one JSON file for each evaluation and autoencoder, as its scripts write them.

Its "core" evaluation is made of our reconstruction and downstream tasks. Where definitions differ:

* explained_variance is 1 − FVU over all held-out tokens; SAEBench 0.6.0 subtracts mean_d (E[x_d²])² in its total, which
  is not a variance.
* explained_variance_legacy, a mean of ratios about each batch's own mean, depends on the batches and is NaN here.
* cross-entropies leave position 0 and sinks unspliced; SAEBench splices them unless told otherwise.

Other tasks give their SAEBench counterpart themselves, in `Outcome.extra["saebench"]`.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matryo.sae.evaluate.evaluation import Evaluation
from matryo.spine.config import write_text

NAN = float("nan")


def write_saebench(found: Evaluation, folder: Path) -> list[Path]:
    """Write FOLDER/EVALUATION/SAE_eval_results.json for every autoencoder and evaluation that has a counterpart.

    Raises:
        ValueError: nothing that was measured has one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    now, written = int(time.time() * 1000), []
    for sae in found.runs:
        for kind, told in _results(found, sae):
            result = {
                "eval_type_id": kind,
                "eval_config": told.get("config", {}),
                "eval_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"matryo/{found.runs[sae]}/{sae}/{kind}")),
                "datetime_epoch_millis": now,
                "eval_result_metrics": told["metrics"],
                "eval_result_details": told.get("details", []),
                "sae_bench_commit_hash": "written by matryo, not by SAEBench",
                "sae_lens_id": sae,
                "sae_lens_release_id": found.runs[sae],
                "sae_lens_version": None,
                "sae_cfg_dict": dict(found.configs[sae]),
                "eval_result_unstructured": told.get("unstructured"),
            }
            name = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{found.runs[sae]}_{sae.removeprefix(found.runs[sae] + '-')}")
            path = folder / kind / f"{name}_eval_results.json"
            path.parent.mkdir(exist_ok=True)
            write_text(path, json.dumps(result, indent=2) + "\n")
            written.append(path)
    if not written:
        raise ValueError("no task with a SAEBench counterpart was measured; expected reconstruction, or one of its own")
    return written


def _results(found: Evaluation, sae: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every evaluation of one autoencoder, with its metrics."""
    reconstruction = _scores(found, "reconstruction", sae)
    if reconstruction:
        yield "core", _core(found, sae, reconstruction, _scores(found, "downstream", sae))
    for one in found.measured:
        told = one.outcome.extra.get("saebench", {}).get(sae) if one.outcome else None
        if told:
            yield told["eval_type_id"], told


def _scores(found: Evaluation, task: str, sae: str) -> Mapping[str, Any]:
    return next((dict(o.scores[sae]) for o in found.outcomes(task) if sae in o.scores), {})


def _core(found: Evaluation, sae: str, one: Mapping[str, Any], lm: Mapping[str, Any]) -> dict[str, Any]:
    """The core evaluation; what needs the model is NaN when it was not run."""
    constants = next((o.constants for o in found.outcomes("downstream") if sae in o.scores), {})
    tokens = next(o.constants["tokens"] for o in found.outcomes("reconstruction") if sae in o.scores)
    width = found.configs[sae]["d_in"]
    data = next((o.data for o in found.outcomes("reconstruction") if sae in o.scores), {})
    tokens_read = {
        "total_tokens_eval_reconstruction": constants.get("tokens", 0),
        "total_tokens_eval_sparsity_variance": tokens,
    }
    metrics = _model(lm) | _reconstruction(one, width) | {"token_stats": tokens_read} | {"misc_metrics": _misc(one)}
    config = {
        "model_name": str(data.get("lm")),
        "dataset": f"held-out rows {data.get('heldout_rows')}",
        "compute_kl": bool(lm),
        "compute_ce_loss": bool(lm),
        "compute_l2_norms": True,
        "compute_sparsity_metrics": True,
        "compute_variance_metrics": True,
        "exclude_special_tokens_from_reconstruction": True,
    }
    return {"metrics": metrics, "config": config}


def _of(scores: Mapping[str, Any], key: str) -> float:
    value = scores.get(key)
    return NAN if value is None else value


def _model(lm: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        "model_behavior_preservation": {
            "kl_div_score": _of(lm, "kl_recovered"),
            "kl_div_with_ablation": _of(lm, "kl_zero"),
            "kl_div_with_sae": _of(lm, "kl_spliced"),
        },
        "model_performance_preservation": {
            "ce_loss_score": _of(lm, "ce_recovered"),
            "ce_loss_with_ablation": _of(lm, "ce_zero"),
            "ce_loss_with_sae": _of(lm, "ce_spliced"),
            "ce_loss_without_sae": _of(lm, "ce_clean"),
        },
    }


def _reconstruction(one: Mapping[str, Any], width: int) -> dict[str, dict[str, float]]:
    return {
        "reconstruction_quality": {
            "explained_variance": 1 - _of(one, "fvu"),
            "explained_variance_legacy": NAN,
            "mse": _of(one, "mse") * width,  # theirs is summed over dimensions
            "cossim": _of(one, "cosine"),
        },
        "shrinkage": {
            "l2_norm_in": _of(one, "norm"),
            "l2_norm_out": _of(one, "norm_hat"),
            "l2_ratio": _of(one, "norm_ratio"),
            "relative_reconstruction_bias": _of(one, "relative_bias"),
        },
        "sparsity": {"l0": _of(one, "l0"), "l1": _of(one, "l1")},
    }


def _misc(one: Mapping[str, Any]) -> dict[str, float]:
    return {
        "freq_over_1_percent": _of(one, "over_one_percent"),
        "freq_over_10_percent": _of(one, "over_ten_percent"),
        "normalized_freq_over_1_percent": _of(one, "firings_over_one_percent"),
        "normalized_freq_over_10_percent": _of(one, "firings_over_ten_percent"),
        "average_max_encoder_cosine_sim": _of(one, "encoder_cosine"),
        "average_max_decoder_cosine_sim": _of(one, "decoder_cosine"),
        "frac_alive": 1 - _of(one, "dead"),
    }
