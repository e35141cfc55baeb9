"""How fast activations are harvested, beside the model's own matrix products and beside plain `transformers`.

    python bench/harvest.py [--rounds 15] [--minutes 10] [--lm smollm2] [--site blocks.10.resid_pre] [--tokens 60000]

Each round times, for one batch shape after another: a matrix product of the model's largest layer (the rate everything
is measured against; only linear layers count as the model's work), a forward pass of plain `transformers` stopped by a
hook at the same layer, `capture` in a pass of the same shape, and `capture` in passes of its own choice, which is what
a harvest does; the order turns with each round. Then the command as a whole, from text to finished store, against its
own forward passes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the front door does

import torch

SHAPES = [(256, 512), (256, 2_048), (256, 8_192), (64, 2_048), (512, 2_048), (1_024, 4_096)]
"""Tokens in a row, tokens a pass: rows of the usual length in small to large passes, then other lengths."""


class Stop(Exception):  # noqa: N818
    """The layer is reached."""


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def interval(values: list[float]) -> dict[str, float]:
    """Median and the range of nine tenths of the values."""
    low = sorted(values)
    return {
        "rounds": len(low),
        "median": statistics.median(low),
        "low": low[len(low) // 20],
        "high": low[-1 - len(low) // 20],
    }


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


def compare(name: str, site: str, rounds: int, minutes: float) -> dict[str, dict[str, dict[str, float]]]:
    """Shares of the matrix product's rate by batch shape, ours and plain `transformers`', and their ratio.

    What is timed is one pass. `harvest` is what the command does with rows of that length: passes of its own choice.
    """
    from transformers import AutoModelForCausalLM

    from matryo.sae.lm import capture, load_lm
    from matryo.sae.lm.capturing import CPU_PASS_TOKENS

    lm = load_lm(name)
    layer = int(site.split(".")[1])
    plain = plain_pass(AutoModelForCausalLM.from_pretrained(lm.folder, dtype=torch.float32).eval(), layer)
    linear = linear_weights(lm.model, layer)
    flops = 2 * sum(weight.numel() for weight in linear)  # of a token
    largest = max(linear, key=torch.numel).detach()
    x, out = torch.randn(8_192, largest.shape[1]), torch.empty(8_192, largest.shape[0])
    product = 4 * 2 * len(x) * largest.numel()

    def multiply() -> None:
        for _ in range(4):
            torch.mm(x, largest.t(), out=out)

    found: dict[str, dict[str, list[float]]] = {}
    until = time.monotonic() + 60 * minutes
    with torch.inference_mode():
        for i in range(rounds + 1):
            if i > 1 and time.monotonic() > until:
                break
            for row_length, tokens in SHAPES:
                ids = torch.randint(10, lm.vocab_size, (tokens // row_length, row_length))
                own = torch.randint(10, lm.vocab_size, (max(1, CPU_PASS_TOKENS // row_length), row_length))
                calls = {
                    "transformers": (tokens, lambda ids=ids: plain(ids)),
                    "capture": (tokens, lambda ids=ids, n=tokens: capture(lm, ids, [site], pass_tokens=n)[site]),
                    "harvest": (own.numel(), lambda ids=own: capture(lm, ids, [site])[site]),
                }
                if i == 0:  # the first round only warms up, and looks at the numbers
                    torch.testing.assert_close(calls["capture"][1](), plain(ids), rtol=1e-3, atol=1e-3)
                    continue
                rate = product / seconds(multiply)
                speed = {}
                for label in sorted(calls, reverse=bool(i % 2)):
                    count, call = calls[label]
                    speed[label] = count / seconds(call)
                here = found.setdefault(f"rows of {row_length}, {tokens} tokens a pass", {})
                for label, value in speed.items():
                    here.setdefault(f"{label}, share of the product's rate", []).append(flops * value / rate)
                    here.setdefault(f"{label}, tokens/s", []).append(value)
                for label in ("capture", "harvest"):
                    here.setdefault(f"{label} / transformers", []).append(speed[label] / speed["transformers"])
    return {shape: {key: interval(values) for key, values in numbers.items()} for shape, numbers in found.items()}


def time_command(name: str, site: str, tokens: int) -> dict[str, float]:
    """Seconds of `matryo sae harvest` as a process, and of what it consists, from its own forward passes on."""
    from matryo.sae.lm import capture, load_lm
    from matryo.sae.text import TokenRows

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "matryo", "sae", "harvest", "--lm", name, "--site", site, "--quiet"]
        whole = seconds(
            lambda: subprocess.run([*command, "--tokens", str(tokens), "--runs", folder], check=True, timeout=900)
        )
        (run,) = Path(folder).glob("2*")
        parts = [TokenRows.load(path) for path in sorted((run / "rows").iterdir()) if path.is_dir()]
        lm = load_lm(name)
        ids = torch.cat([torch.from_numpy(rows.tokens.astype("int64")) for rows in parts])
        capture(lm, ids[:8], [site])
        forward = seconds(lambda: [capture(lm, part, [site]) for part in ids.split(32)])
    stored = ids.numel() - len(ids)
    return {
        "tokens": stored,
        "command s": whole,
        "forward passes s": forward,
        "command, tokens/s": stored / whole,
        "forward passes, tokens/s": stored / forward,
    }


def main() -> None:
    """Print every figure, and write them as JSON beside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--minutes", type=float, default=10, help="no new round is begun after so many")
    parser.add_argument("--lm", default="smollm2")
    parser.add_argument("--site", default="blocks.10.resid_pre")
    parser.add_argument("--tokens", type=int, default=60_000, help="of the whole command; 0 to leave it out")
    parser.add_argument("--out", type=Path, default=Path("bench/results/harvest.json"))
    options = parser.parse_args()
    if not options.site.endswith("resid_pre"):
        parser.error(f"--site is {options.site}: expected blocks.N.resid_pre, where plain transformers can be stopped")
    found: dict[str, object] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "lm": options.lm}
    found["shapes"] = shapes = compare(options.lm, options.site, options.rounds, options.minutes)
    for shape, numbers in shapes.items():
        print(shape)
        for label, value in numbers.items():
            print(f"  {label:42}{value['median']:9.3f}  ({value['low']:.3f} to {value['high']:.3f})")
    if options.tokens:
        found["command"] = command = time_command(options.lm, options.site, options.tokens)
        print("  ".join(f"{label} {value:,.1f}" for label, value in command.items()))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
