"""Runs that several processes make together, and one process alone."""

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import torch
from tests.sae.train.cases import D_IN, batches, planted

from matryo.sae.kernels import use
from matryo.sae.nn import SAE, SAEConfig
from matryo.sae.train import Checkpoints, Interrupted, TrainConfig, member, train
from matryo.sae.train.parallel import Parallel, Processes

STEPS, ROWS, LATENTS = 20, 71, 53  # no two alike, and no multiple of two or four
CONFIG = TrainConfig(steps=STEPS, lr=5e-3, dead_after=3 * ROWS, clip=0.5, log_every=7, checkpoint_every=0)
KINDS = ("batch_topk", "topk", "jumprelu", "relu", "gated")


@dataclass(frozen=True)
class Case:
    """A few autoencoders trained side by side, in one mode."""

    mode: str
    kernels: str = "auto"
    levels: str | tuple[int, ...] = "nested"
    d_out: int | None = None
    calibrated: bool = True
    dense: bool = True
    "Whether ReLU and Gated may take dense steps, as they do with so few latents."
    kinds: tuple[str, ...] = KINDS

    @property
    def name(self) -> str:
        levels = self.levels if isinstance(self.levels, str) else "some"
        return f"{self.mode}-{self.kernels}-{levels}-{self.d_out or 'auto'}-{self.calibrated}-{self.dense}"

    def configs(self) -> dict[str, SAEConfig]:
        common = {"d_in": D_IN, "n_latents": LATENTS, "k": 3, "levels": self.levels, "d_out": self.d_out, "aux_k": 4}
        return {kind: SAEConfig(kind=kind, seed=seed, **common) for seed, kind in enumerate(self.kinds)}  # type: ignore[arg-type]


CASES = [
    *(Case(mode) for mode in ("data", "latents")),
    *(Case(mode, levels="none", dense=False, kinds=("topk", "relu")) for mode in ("data", "latents")),
    *(Case(mode, levels="sampled", calibrated=False, kinds=("batch_topk", "topk")) for mode in ("data", "latents")),
    *(Case(mode, "torch", d_out=6, kinds=("batch_topk", "jumprelu", "gated")) for mode in ("data", "latents")),
    Case("grid", levels=(2, 9, LATENTS), kinds=("batch_topk", "topk", "jumprelu", "gated")),
]
FEWER = CASES[:2]
"For four processes on two cores."


def source(case: Case) -> list:
    made = [batch.double() for batch in batches(6, ROWS)]
    return [(x, x[:, : case.d_out] * 2 - 1) for x in made] if case.d_out else made


def made(case: Case, parallel: Parallel, dtype: torch.dtype = torch.float64) -> dict[str, SAE]:
    """The case's autoencoders, some of their latents far from ever firing."""
    saes = {name: sae.to(dtype) for name, sae in parallel.build(case.configs()).items()}
    for sae in saes.values():
        latent = torch.arange(sae.first, sae.first + len(sae.W_dec))
        with torch.no_grad():
            sae.b_enc[latent % 7 == 0] = -30.0
    return saes


def run(case: Case, parallel: Parallel, folder: Path) -> None:
    """Train and save; the numbers logged beside them."""
    saes = made(case, parallel)
    lines: list[dict[str, float]] = []
    calibration = [planted(90, seed=9).double(), planted(41, seed=8).double()] if case.calibrated else None
    limit = member.DENSE_ABOVE if case.dense else 2.0
    with use(case.kernels), patch.object(member, "DENSE_ABOVE", limit):
        train(
            saes,
            source(case),
            CONFIG,
            calibration=calibration,
            on_step=lambda step, numbers: lines.append({"step": step, **numbers}),
            parallel=parallel,
        )
    for name, sae in saes.items():
        parallel.save(sae, folder / case.name / name)
    if parallel.first:
        (folder / case.name / "lines.json").write_text(json.dumps(lines))


# Stopped and gone on with --------------------------------------------------------------------------------------------

RESUMED = Case("grid", levels="sampled", kinds=("batch_topk", "topk", "jumprelu", "gated"))


def resumable(parallel: Parallel, folder: Path, stop: int | None = None) -> None:
    """Begin, or go on with, a run in `folder`, until a step or the end."""
    saes = made(RESUMED, parallel)
    calls = itertools.count(1)
    last = None if stop is None else stop - started(folder)
    try:
        train(
            saes,
            source(RESUMED),
            replace(CONFIG, checkpoint_every=4),
            checkpoints=Checkpoints(folder / "checkpoints"),
            resume=True,
            should_stop=lambda: next(calls) == last,
            parallel=parallel,
        )
    except Interrupted:
        return
    for name, sae in saes.items():
        parallel.save(sae, folder / "saes" / name)


def started(folder: Path) -> int:
    """The step of the checkpoint there is."""
    stored = Checkpoints(folder / "checkpoints").newest()
    return stored.plain["step"] if stored else 0


FVU = Case("data", kinds=("batch_topk", "jumprelu"))


def measure_fvu(parallel: Parallel, file: Path) -> None:
    """The final FVU of a longer run in float32."""
    config = replace(CONFIG, steps=100, log_every=100, clip=1.0, dead_after=5000)
    result = train(made(FVU, parallel, torch.float32), batches(25, 256), config, parallel=parallel)
    if parallel.first:
        file.write_text(json.dumps({name: last["fvu"] for name, last in result.last.items()}))


def do(job: str, mode: str, folder: Path, processes: Processes | None = None) -> None:
    """One job of a session: `cases`, `fewer`, `fvu-MODE`, or `until-STEP` in a mode."""
    if job in ("cases", "fewer"):
        for case in CASES if job == "cases" else FEWER:
            run(case, Parallel(case.mode, processes), folder)  # type: ignore[arg-type]
    elif job == "fvu":
        measure_fvu(Parallel(mode, processes), folder / f"fvu-{mode}.json")  # type: ignore[arg-type]
    else:
        resumable(Parallel(mode, processes), folder / "resumed", int(job.removeprefix("until-")) % STEPS or None)  # type: ignore[arg-type]
