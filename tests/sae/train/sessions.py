"""Runs that are stopped and gone on with."""

from pathlib import Path

import torch
from tests.sae.train.cases import batches, make, same, weights

from matryo.sae.nn import KINDS
from matryo.sae.train import Checkpoints, Interrupted, TrainConfig, train

STEPS = 13
CONFIG = TrainConfig(steps=STEPS, lr=5e-3, dead_after=150, checkpoint_every=4, log_every=3)
CALIBRATION = batches(1, 200, seed=9)


def family(d_out: int | None = None) -> dict:
    """Every kind with every sort of levels, with dead latents for the auxiliary loss to work on."""
    saes = {
        f"{kind} {levels}": make(kind, levels=levels, seed=i, d_out=d_out)
        for i, (kind, levels) in enumerate((k, lv) for k in KINDS for lv in ("none", "nested", "sampled"))
    }
    for sae in saes.values():
        with torch.no_grad():
            sae.b_enc[::7] = -30.0
    return saes


def stop_after(step: int):
    calls = iter(range(1, 10_000))
    return lambda: next(calls) == step


def session(saes, source, folder: Path, stop: int | None = None, config: TrainConfig = CONFIG):
    """Begin, or go on with, a run; None when it was stopped."""
    lines: list[dict[str, float]] = []
    try:
        result = train(
            saes,
            source,
            config,
            calibration=CALIBRATION,
            checkpoints=Checkpoints(folder),
            resume=True,
            on_step=lambda step, numbers: lines.append({"step": step, **numbers}),
            should_stop=stop_after(stop) if stop else lambda: False,
        )
    except Interrupted:
        return None, lines
    return result, lines


def all_same(a: dict, b: dict) -> bool:
    return all(same(weights(a[name]), weights(b[name])) for name in a)
