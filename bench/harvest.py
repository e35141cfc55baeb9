"""How fast activations are harvested, beside the model's own matrix products and beside plain `transformers`.

    python bench/harvest.py [--rounds 9] [--lm smollm2] [--site blocks.10.resid_pre] [--skip-command]

Each round times, for one batch shape after another: a matrix product of the model's largest layer (the rate everything
is measured against; only linear layers count as the model's work), the forward pass of plain `transformers` stopped by
a hook at the same layer, and `capture` with passes of the same size; the last two in turn first. Then the command as a
whole, text to finished store, against its own forward passes.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the front door does

import torch

SHAPES = [(256, 512), (256, 2_048), (256, 4_096), (256, 8_192), (64, 2_048), (128, 2_048), (512, 2_048), (1_024, 4_096)]
"""(tokens in a row, tokens a pass)"""
TOKENS = 8_192


class Stop(Exception):  # noqa: N818
    """The layer is reached."""


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def interval(values: list[float]) -> dict[str, float]:
    """Median and the range of nine tenths of the values."""
    low = sorted(values)
    return {"median": statistics.median(low), "low": low[len(low) // 20], "high": low[-1 - len(low) // 20]}


def linear_weights(model: torch.nn.Module, layers: int) -> list[torch.Tensor]:
    """The weights of the linear layers of the first blocks."""
    return [
        module.weight
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in f".{path}" and int(path.split(".")[2]) < layers
    ]


def plain_pass(model: torch.nn.Module, layer: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """What one would write with `transformers` alone: a hook that keeps the layer's input and stops."""
    kept: list[torch.Tensor] = []

    def hook(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        kept[:] = [args[0]]
        raise Stop

    model.model.layers[layer].register_forward_pre_hook(hook)

    def run(ids: torch.Tensor) -> torch.Tensor:
        try:
            model.model(input_ids=ids, use_cache=False)
        except Stop:
            return kept[0]
        raise AssertionError("the layer was not reached")

    return run


def compare(name: str, site: str, rounds: int) -> dict[str, dict[str, object]]:
    """Shares of the matrix product's rate by batch shape, ours and plain `transformers`', and their ratio."""
    from transformers import AutoModelForCausalLM

    from matryo.sae.lm import capture, load_lm

    lm = load_lm(name)
    layer = int(site.split(".")[1])
    assert site.endswith("resid_pre")
    plain = plain_pass(AutoModelForCausalLM.from_pretrained(lm.folder, dtype=torch.float32).eval(), layer)
    linear = linear_weights(lm.model, layer)
    flops = 2 * TOKENS * sum(weight.numel() for weight in linear)
    largest = max(linear, key=torch.numel).detach()
    x, out = torch.randn(TOKENS, largest.shape[1]), torch.empty(TOKENS, largest.shape[0])
    product = 8 * 2 * TOKENS * largest.numel()

    def multiply() -> None:
        for _ in range(8):
            torch.mm(x, largest.t(), out=out)

    found: dict[str, dict[str, list[float]]] = {}
    with torch.inference_mode():
        for i in range(rounds + 1):
            for row_length, pass_tokens in SHAPES:
                ids = torch.randint(10, lm.vocab_size, (TOKENS // row_length, row_length))
                rows = max(1, pass_tokens // row_length)
                calls = {
                    "transformers": lambda ids=ids, rows=rows: torch.cat([plain(part) for part in ids.split(rows)]),
                    "capture": lambda ids=ids, size=pass_tokens: capture(lm, ids, [site], pass_tokens=size)[site],
                }
                if i == 0:  # the first round only warms up, and looks at the numbers
                    torch.testing.assert_close(calls["capture"](), calls["transformers"](), rtol=1e-3, atol=1e-3)
                    continue
                rate = product / seconds(multiply)
                times = {label: seconds(calls[label]) for label in sorted(calls, reverse=bool(i % 2))}
                here = found.setdefault(f"rows of {row_length}, {pass_tokens} tokens a pass", {})
                for label, took in times.items():
                    here.setdefault(f"{label}, share of the product's rate", []).append(flops / took / rate)
                    here.setdefault(f"{label}, tokens/s", []).append(TOKENS / took)
                here.setdefault("capture's speed / transformers'", []).append(times["transformers"] / times["capture"])
    return {shape: {key: interval(values) for key, values in numbers.items()} for shape, numbers in found.items()}
