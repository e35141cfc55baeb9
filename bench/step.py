"""How much a training step costs beside the matrix product it cannot do without.

    python bench/step.py [--rounds 15]

Each round times the encoder product x @ W_enc alone and then one full step (forward, loss, backward, gradient clipping,
projection, Adam, renormalisation, bookkeeping), so that a machine whose speed drifts slows both. The ratio's median and
range are printed. Peak memory is that of a fresh process that makes the data, the autoencoder and three steps.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the front door does

import torch

D_IN, N_LATENTS, BATCH, K = 768, 12_288, 4_096, 32


def planted(batches: int, seed: int = 0) -> list[torch.Tensor]:
    """Activations made of N_LATENTS planted directions with Zipf rates, about K to a token, and a little noise."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(N_LATENTS, D_IN, generator=g), dim=1)
    rate = 1 / (torch.randperm(N_LATENTS, generator=g) + 20.0)
    made = []
    for _ in range(batches):
        chosen = torch.multinomial(rate.expand(BATCH, -1), K, generator=g)
        size = torch.exp(0.35 * torch.randn(BATCH, K, generator=g))
        x = torch.nn.functional.embedding_bag(chosen, rows, per_sample_weights=size, mode="sum")
        made.append(x + 0.05 * torch.randn(BATCH, D_IN, generator=g))
    return made


def member(levels: str, x: torch.Tensor):
    """A part-trained autoencoder's state: a fresh one, initialised on a batch."""
    from matryo.sae.nn import SAEConfig, build
    from matryo.sae.nn.base import unit_scale
    from matryo.sae.train.config import TrainConfig
    from matryo.sae.train.member import Member

    sae = build(SAEConfig(kind="batch_topk", d_in=D_IN, n_latents=N_LATENTS, k=K, levels=levels))  # pyright: ignore
    scale = unit_scale(x)
    sae.initialise(x * scale)
    return Member(sae, TrainConfig(steps=10_000, lr=3e-4)), scale


def time_steps(levels: str, rounds: int, warm: int = 3) -> dict[str, float]:
    """Median and range of step time / encoder product time."""
    batches = planted(3)
    m, scale = member(levels, batches[0])
    batches = [x * scale for x in batches]
    out = torch.empty(BATCH, N_LATENTS)
    products, steps = [], []
    for i in range(warm + rounds):
        x = batches[i % 3]
        weights = m.sae.W_enc.detach()
        began = time.perf_counter()
        torch.mm(x, weights, out=out)
        product = time.perf_counter() - began
        began = time.perf_counter()
        m.step(x, None, i + 1000, 10_000)
        step = time.perf_counter() - began
        if i >= warm:
            products.append(product)
            steps.append(step)
    ratios = sorted(s / p for s, p in zip(steps, products, strict=True))
    return {
        "product_s": statistics.median(products),
        "step_s": statistics.median(steps),
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[len(ratios) // 20],
        "ratio_high": ratios[-1 - len(ratios) // 20],
        "product_gflops": 2 * BATCH * D_IN * N_LATENTS / statistics.median(products) / 1e9,
    }


def peak_memory(levels: str) -> float:
    """GiB of a fresh process that takes three steps."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import step; step.three_steps({levels!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def three_steps(levels: str) -> None:
    """Take three steps and print this process's peak memory in GiB."""
    batches = planted(1)
    m, scale = member(levels, batches[0])
    for i in range(3):
        m.step(batches[0] * scale, None, i + 1000, 10_000)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def main() -> None:
    """Print every figure, and write them as JSON beside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("bench/results/step.json"))
    options = parser.parse_args()
    found: dict[str, object] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    for label, levels in (("BatchTopK", "none"), ("Matryoshka", "nested")):
        figures = time_steps(levels, options.rounds) | {"peak_gib": peak_memory(levels)}
        found[label] = figures
        print(
            f"{label:10}  step {figures['step_s']:.3f} s = {figures['ratio']:.2f} × the encoder product "
            f"({figures['ratio_low']:.2f}–{figures['ratio_high']:.2f}; {figures['product_gflops']:.0f} GFLOP/s), "
            f"peak memory of the process {figures['peak_gib']:.2f} GiB"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
