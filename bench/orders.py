"""How far the error rises on the way from one SAE to a larger one, by the order of the same steps.

    python -m bench.orders --runs RUN [--small 768] [--large 1536] [--tokens 8192] [--threshold 0.7]

RUN is a training run with both sizes; measured on its held-out tokens. The steps are those of `matryo sae stitch`:
novel latents, connected components of the similarity graph, and what no edge holds. The error after any of them follows
from G_kl = Σ_t u_k·u_l and g_k = Σ_t u_k·r (`matryo.sae.compare.greedy`), so that an order costs no pass over tokens.
At the highest step of the default order it is also told what other thresholds would give there, and a factor for each
latent.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the front door does

import numpy as np
import torch

from bench.stitch import BATCH, trained

SHIFTS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Added to all thresholds, in units of the activations."""


class Steps:
    """(G, g) of all steps, and the error after any sequence of them, as FVU."""

    def __init__(self, gram, along: np.ndarray, error: float, variance: float) -> None:
        self.gram, self.along, self.error, self.variance = gram.toarray(), along, error, variance

    def curve(self, order: Sequence[int]) -> np.ndarray:
        """FVU after each step, the first being none."""
        along, found = self.along.copy(), [self.error]
        for k in order:
            found.append(found[-1] + self.gram[k, k] - 2 * along[k])
            along -= self.gram[k]
        return np.array(found) / self.variance

    def greedy(self, phases: Sequence[Sequence[int]], power: float) -> list[int]:
        """Phase by phase the step of the least Δ_k / G_kk^power of those left."""
        own, along, order = self.gram.diagonal(), self.along.copy(), []
        size = np.where(own > 0, own, 1.0) ** power
        for phase in phases:
            left = np.full(len(own), np.inf)
            left[list(phase)] = 0
            for _ in phase:
                k = int(((own - 2 * along) / size + left).argmin())
                left[k] = np.inf
                order.append(k)
                along -= self.gram[k]
        return order

    def never_up(self, steps: Sequence[int]) -> list[list[int]]:
        """Steps joined, the one of the least Δ_k first, until together they no longer raise the error."""
        own, along, joined = self.gram.diagonal(), self.along.copy(), []
        left = np.full(len(own), np.inf)
        left[list(steps)] = 0
        change = 0.0
        for number in range(len(steps)):
            k = int((own - 2 * along + left).argmin())
            left[k] = np.inf
            if number == 0 or change <= 0:
                joined.append([])
                change = 0.0
            change += own[k] - 2 * along[k]
            joined[-1].append(k)
            along -= self.gram[k]
        return joined


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("small", 768), ("large", 1536), ("tokens", 8192), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--runs", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    small, large, x = trained(asked.runs, asked.small, asked.large, asked.tokens)
    with torch.no_grad():
        print(json.dumps(measure(small, large, x, asked.threshold), indent=1))


def measure(small, large, x: torch.Tensor, threshold: float) -> dict[str, object]:
    """Every order's highest FVU, and what else could lower the default's."""
    from matryo.sae.compare import StitchConfig, compare_pairs, path_of, published_units, trace_path
    from matryo.sae.compare.greedy import _gram, _membership

    n_small, n_large = small.config.n_latents, large.config.n_latents
    config = StitchConfig(threshold=threshold)
    one = compare_pairs({"s": small, "l": large}, [("s", "l")], x.split(BATCH), config)["s", "l"]
    delta, nearest = one.insertion.delta_mse.numpy(), one.there.latent.numpy()
    units = published_units(one.novel, delta, one.edges, nearest, n_small)
    rows = torch.cat([-small.W_dec, large.W_dec])
    gram, along = _gram(small, large, rows, x.split(BATCH), "small", lambda tokens: None)
    error = one.insertion.mse_small * x.numel()
    variance = error / one.insertion.fvu_small
    steps = units[:-1]  # b_dec is the last
    member = _membership(steps, n_small, n_small + n_large)
    game = Steps(member.T @ gram @ member, member.T @ along, error, variance)
    latents = Steps(gram, along, error, variance)
    phase = {name: [k for k, u in enumerate(steps) if u.phase == name] for name in ("insert", "swap", "rest")}
    swaps, every = phase["swap"] + phase["rest"], list(range(len(steps)))
    by_size = sorted(phase["swap"], key=lambda k: len(steps[k].added) + len(steps[k].removed))
    enter = [n_small + j for j in range(n_large) if not one.novel[j]]
    novel = [n_small + j for u in steps if u.phase == "insert" for j in u.added]
    orders = {
        "published": game.curve(every),
        "smaller components first": game.curve(phase["insert"] + by_size + phase["rest"]),
        "random": game.curve(phase["insert"] + np.random.default_rng(0).permutation(swaps).tolist()),
        "all enter, then all leave": latents.curve(latents.greedy([novel, enter, range(n_small)], 1)),
        "least change, rest afterwards": game.curve(game.greedy([phase["insert"] + phase["swap"], phase["rest"]], 0)),
        "least change, rest mixed in": game.curve(game.greedy([phase["insert"], swaps], 0)),
        "least change for what it changes": game.curve(best := game.greedy([phase["insert"], swaps], 1)),
    }
    bias_first = trace_path(path_of([units[-1], *steps], n_small, n_large), small, large, x.split(BATCH)).fvu
    joined = game.never_up(every)
    sizes = [sum(len(steps[k].added) + len(steps[k].removed) for k in some) for some in joined]
    top = int(orders["least change for what it changes"].argmax())
    path = path_of([*(steps[k] for k in best), units[-1]], n_small, n_large)
    return {
        "latents": [n_small, n_large],
        "tokens": len(x),
        "fvu": [round(one.insertion.fvu_small, 4), round(one.insertion.fvu_large, 4)],
        "larger's latents above the threshold": round(float((one.there.cosine > threshold).float().mean()), 3),
        "steps": len(steps),
        "highest fvu": {name: round(float(curve.max()), 4) for name, curve in orders.items()}
        | {"b_dec of the larger from the first step": round(float(bias_first.max()), 4)},
        "never up": {"steps": len(joined), "largest step, share of latents": round(max(sizes) / sum(sizes), 3)},
        "at the highest step": at_highest(path.at(top, small, large), x, variance)
        | {
            "a factor for each latent, least squares": round(
                refitted(path, top, gram, along, error, n_small) / variance, 4
            )
        },
    }


def at_highest(sae, x: torch.Tensor, variance: float) -> dict[str, object]:
    """FVU and L0 of a stitched SAE, also with its thresholds raised."""
    found, before = {}, sae.threshold.clone()
    for shift in (0.0, *SHIFTS):
        sae.threshold.copy_(before + shift)
        entries = [sae.encode_sparse(part) for part in x.split(BATCH)]
        parts = zip(x.split(BATCH), entries, strict=True)
        error = sum(float((part - sae.decode_sparse(one)).double().square().sum()) for part, one in parts)
        found[f"thresholds + {shift}"] = [
            round(error / variance, 4),
            round(sum(len(e.value) for e in entries) / len(x), 1),
        ]
    return found


def refitted(path, step: int, gram, along: np.ndarray, error: float, n_small: int) -> float:
    """Least squared error over all factors α, x̂ = b + Σ α_m z_m w_m of the latents that are there."""
    sign = np.where(np.arange(len(along)) < n_small, -1.0, 1.0)
    whole = gram.toarray() * sign[:, None] * sign
    small = np.arange(n_small)
    # r = x − b − Σ_small z w, so that Σ_t (x − b)·z_m w_m = ±g_m + Σ_small
    toward = sign * along + whole[:, small].sum(1)
    total = error + 2 * (sign * along)[small].sum() + whole[np.ix_(small, small)].sum()
    here = np.concatenate([path.leaves > step, path.enters <= step]) & (whole.diagonal() > 0)
    inner = whole[np.ix_(here, here)]
    factor = np.linalg.solve(inner + 1e-4 * np.diag(inner.diagonal()), toward[here])
    return float(total - 2 * factor @ toward[here] + factor @ inner @ factor)


if __name__ == "__main__":
    main()
