"""The insertion test of all latents in one pass, beside one pass for each latent.

    python bench/stitch.py [--small 3072] [--large 6144] [--d 576] [--tokens 50000] [--alone 20] [--runs RUN]

Two BatchTopK SAEs on random sparse activations, k = 32; with --runs those of a training run, on its held-out tokens.
ΔMSE of all latents of the larger is computed in one pass; then, for some of them, the obvious way: a stitched SAE with
that latent added encodes and decodes every token again. Their time per latent, times the number of latents, is what one
pass per latent would take. Both results are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the front door does

import torch
from torch import Tensor

BATCH, K = 4_096, 32


def planted(d: int, n: int, tokens: int) -> Tensor:
    """Sparse codes of n random directions: K of them active per token."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)
    x = torch.empty(tokens, d)
    for start in range(0, tokens, BATCH):
        rows = min(BATCH, tokens - start)
        which = torch.randint(n, (rows, K), generator=generator)
        size = torch.rand(rows, K, 1, generator=generator) + 0.5
        x[start : start + rows] = (directions[which] * size).sum(1)
    return x


def made(d: int, n: int, seed: int, x: Tensor):
    """A BatchTopK SAE started on these activations, with a threshold set on them."""
    from matryo.sae.compare import as_jumprelu
    from matryo.sae.nn import SAEConfig, build

    sae = build(SAEConfig(kind="batch_topk", d_in=d, n_latents=n, k=K, seed=seed))
    sae.initialise(x[:BATCH])
    sae.calibrate([x[:BATCH]])
    return as_jumprelu(sae.eval())


def trained(run: Path, small: int, large: int, tokens: int):
    """The SAEs of two sizes of a training run, and held-out activations of it."""
    from matryo.sae.compare import as_jumprelu
    from matryo.sae.nn import SAE
    from matryo.sae.sources import located
    from matryo.sae.store import in_order, open_activations
    from matryo.spine.run import read_run

    outputs = located(run, read_run(run).outputs)
    found = {}
    for folder in outputs["saes"].values():
        sae = SAE.load(run / folder)
        found.setdefault(sae.config.n_latents, as_jumprelu(sae))
    x = torch.cat(list(in_order(open_activations(outputs["store"]), "heldout", BATCH)))[:tokens]
    return found[small], found[large], x


@torch.no_grad()
def one_by_one(small, large, x: Tensor, latents: list[int]) -> tuple[list[float], float]:
    """MSE of each stitched SAE less that of the smaller, and seconds per latent."""
    from matryo.sae.compare import join

    def mse(sae) -> float:
        return sum(float((part - sae(part)).double().square().sum()) for part in x.split(BATCH)) / x.numel()

    before, everything = mse(small), torch.arange(small.config.n_latents)
    began = time.perf_counter()
    found = [
        mse(join([(small, everything), (large, torch.tensor([j]))], small.b_dec.clone())) - before for j in latents
    ]
    return found, (time.perf_counter() - began) / len(latents)


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("small", 3072), ("large", 6144), ("d", 576), ("tokens", 50_000), ("alone", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    from matryo.sae.compare import measure_insertions

    if asked.runs:
        small, large, x = trained(asked.runs, asked.small, asked.large, asked.tokens)
    else:
        x = planted(asked.d, asked.large, asked.tokens)
        small, large = made(asked.d, asked.small, 1, x), made(asked.d, asked.large, 2, x)
    measure_insertions({"s": small, "l": large}, [("s", "l")], [x[:256]])  # compiles
    began = time.perf_counter()
    found = measure_insertions({"s": small, "l": large}, [("s", "l")], x.split(BATCH))["s", "l"]
    at_once = time.perf_counter() - began
    active = found.firings.nonzero().flatten()
    latents = active[torch.linspace(0, len(active) - 1, asked.alone).round().long()].tolist()
    alone, each = one_by_one(small, large, x, latents)
    gap = max(abs(a - float(found.delta_mse[j])) for a, j in zip(alone, latents, strict=True))
    n = large.config.n_latents
    told = {
        "small": small.config.n_latents,
        "large": n,
        "d": x.shape[1],
        "tokens": len(x),
        "threads": torch.get_num_threads(),
        "all_latents_s": round(at_once, 2),
        "one_latent_s": round(each, 3),
        "one_pass_per_latent_s": round(each * n),
        "times_faster": round(each * n / at_once),
        "largest_difference_of_mse": gap / found.mse_small,
        "l0": [round(found.l0_small, 1), round(found.l0_large, 1)],
        "fvu": [round(found.fvu_small, 4), round(found.fvu_large, 4)],
    }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
