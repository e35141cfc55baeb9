"""How much a harvest costs beside the matrix products it cannot do without.

    python bench/step.py [--rounds 4]

A harvest is timed against a matrix product of the model's own shape; only linear layers are counted as its work.
Training steps are timed by `python -m bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the front door does

import torch


def time_harvest(rounds: int, name: str, site: str, pass_tokens: int, tokens: int = 8_192) -> dict[str, float]:
    """Rate of the linear layers up to the site, as a share of one matrix product's rate."""
    from matryo.sae.lm import capture, load_lm

    lm = load_lm(name)
    ids = torch.randint(10, lm.vocab_size, (tokens // 256, 256), generator=torch.Generator().manual_seed(0))
    layers = int(site.split(".")[1]) + (0 if site.endswith("resid_pre") else 1)
    linear = [
        module.weight
        for path, module in lm.model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in f".{path}" and int(path.split(".")[2]) < layers
    ]
    flops = 2 * tokens * sum(weight.numel() for weight in linear)
    largest = max(linear, key=torch.numel)
    x, out = torch.randn(tokens, largest.shape[1]), torch.empty(tokens, largest.shape[0])
    shares, rates = [], []
    with torch.inference_mode():
        for i in range(rounds + 1):
            began = time.perf_counter()
            for _ in range(8):
                torch.mm(x, largest.t(), out=out)
            rate = 8 * 2 * tokens * largest.numel() / (time.perf_counter() - began)
            began = time.perf_counter()
            capture(lm, ids, [site], pass_tokens=pass_tokens)
            seconds = time.perf_counter() - began
            if i:
                shares.append(flops / seconds / rate)
                rates.append(tokens / seconds)
    return {"share": statistics.median(shares), "tokens_per_s": statistics.median(rates), "best_share": max(shares)}


def main() -> None:
    """Print every figure, and write them as JSON beside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("bench/results/harvest.json"))
    options = parser.parse_args()
    found: dict[str, object] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    for pass_tokens in (2_048, 8_192):  # the first is what capture chooses on a CPU
        figures = time_harvest(options.rounds, "smollm2", "blocks.10.resid_pre", pass_tokens)
        found[f"harvest, {pass_tokens} tokens a pass"] = figures
        print(
            f"harvest     {figures['tokens_per_s']:.0f} tokens/s = {100 * figures['share']:.0f} % of the matrix "
            f"product's rate (SmolLM2 to blocks.10.resid_pre, {pass_tokens:,} tokens a pass)"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
