"""`matryo sae train`: activations → autoencoders."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from matryo.sae.commands.options import TrainOptions, part, resume_line, stored_options
from matryo.sae.commands.sharing import Mode, Together, open_run, together
from matryo.sae.commands.training_data import StreamedData, TrainingData, stored_data, whole_path
from matryo.sae.train.config import TrainConfig
from matryo.spine.progress import progress, say
from matryo.spine.run import RunFolder

if TYPE_CHECKING:
    from matryo.sae.train import TrainResult


def train(
    recipe: str | None = None,
    *,
    options: Annotated[TrainOptions | None, Parameter(name="*")] = None,
    resume: Path | None = None,
    runs: Path = Path("runs"),
    log: tuple[str, ...] = (),
    parallel: Mode | None = None,
) -> int:
    """Train one or many sparse autoencoders in one pass over stored or streamed activations.

    Every combination of --kind, --n-latents, --k, --levels and --sae-seed is one autoencoder; all see the same
    batches. Each is saved as a SAELens-6 folder under RUN/saes.

    Started by torchrun, several processes train together: with --parallel data each takes rows of every batch, with
    latents a slice of every dictionary, with grid some of the autoencoders. A run can be resumed on any number of them.

    Examples
    --------
        matryo sae train tiny --data runs/latest --passes 1 --n-latents 512
        matryo sae train --lm tiny --site blocks.2.resid_pre --tokens 10000 --kind topk --kind jumprelu --n-latents 256 --steps 20 --batch-size 256 --buffer-tokens 4096
        torchrun --nproc-per-node 2 -m matryo sae train --data runs/latest --parallel latents

    Parameters
    ----------
    recipe
        Named config to start from; `matryo sae recipes` lists them.
    resume
        Unfinished training run to go on with, with its own settings; another value of one is refused.
    runs
        Folder of the runs.
    log
        Also log to tensorboard, wandb or trackio (each must be installed).
    parallel
        What torchrun's processes share out: data, latents or grid; data for one autoencoder, else grid, when not given.
    """
    if resume is not None:
        _, told = stored_options(resume, TrainOptions, "kind", "n_latents", "batch_size")
        options = options or told
    options = options or TrainOptions()
    with together("train", parallel, options.device) as shared:
        with _stop_on_interrupt(shared.processes is not None) as should_stop:
            run, finished = train_run(options, runs, recipe or "train", resume, log, should_stop, parallel, shared)
        if finished:
            say(f"trained: {run}", run=str(run))
        else:
            say(f"interrupted; {resume_line('train', run)}", run=str(run))
            shared.code = 130
    return shared.code


def train_run(
    options: TrainOptions,
    runs: Path,
    name: str = "train",
    resume: Path | None = None,
    log: tuple[str, ...] = (),
    should_stop: Callable[[], bool] = lambda: False,
    mode: Mode | None = None,
    shared: Together | None = None,
) -> tuple[Path, bool]:
    """Train into a new run folder, or an unfinished one; return it and whether training came to its end."""
    from matryo.sae.train import Checkpoints, Interrupted
    from matryo.sae.train import train as fit

    parallel = (shared := shared or Together()).parallel(mode, options.count)
    harvested = parallel.from_first(lambda: _harvest_of(options))
    parents = [Path(harvested)] if harvested else []
    # By its whole path: `runs/latest` will be this run in a moment, and a run is resumed from any folder.
    options = replace(options, data=harvested or (options.data and whole_path(options.data)))
    # Whatever can be refused without a run folder is refused before there is one.
    stored, stream = (stored_data(options), None) if options.data else (None, StreamedData(options))
    grid = options.grid((stored or stream).d_in)  # pyright: ignore[reportOptionalMemberAccess]
    saes = parallel.build({cfg.name: cfg for cfg in grid}, options.device)
    if stream and resume is None:
        stream.pack(runs, parallel)

    created = partial(RunFolder.create, runs, name, "sae train", options, parents, log)
    with open_run(parallel, partial(RunFolder.reopen, resume, options, log) if resume else created) as run:
        shared.run = run.path
        data = stream.open(run.path, parallel) if stream else stored
        assert data is not None
        config = part(options, TrainConfig)
        if config.steps is None:
            config = replace(config, steps=max(1, round(data.batches_per_pass * options.passes)))
        with progress("train", config.steps, "steps") as bar:

            def on_step(step: int, numbers: dict[str, float]) -> None:
                run.log(step=step, **numbers)
                first = grid[0].name
                bar.advance(step - bar.done, fvu=numbers[f"{first}/fvu"], l0=numbers[f"{first}/l0"])

            try:
                result = fit(
                    saes,
                    data.batches,
                    config,
                    calibration=data.calibration,
                    checkpoints=Checkpoints(run.path / "checkpoints"),
                    resume=resume is not None,
                    on_step=on_step,
                    should_stop=should_stop,
                    parallel=parallel,
                )
            except Interrupted:
                return run.path, False
        for sae_name, sae in saes.items():
            parallel.save(sae, run.path / "saes" / sae_name, data.metadata)
        parallel.agree(0)  # everyone has saved
        run.finish({"saes": {cfg.name: f"saes/{cfg.name}" for cfg in grid}} | _outputs(data, result, run.path))
    return run.path, True


def _outputs(data: TrainingData, result: "TrainResult", run: Path) -> dict[str, Any]:
    """What a run says of its data and its end."""
    outputs = {"site": data.site, "lm": data.lm, "steps": result.steps, "tokens": result.tokens}
    outputs |= {"seconds": result.seconds, "scale": result.scale}
    # Relative to this run, so that a folder of runs can be moved.
    outputs |= {key: path and os.path.relpath(path, run) for key, path in data.places.items()}
    return outputs | {"last": result.last}


def _harvest_of(options: TrainOptions) -> str | None:
    """The harvest run that the data are, if they are one."""
    run = Path(options.data).resolve() if options.data else None
    return str(run) if run and (run / "run.json").is_file() else None


@contextmanager
def _stop_on_interrupt(started: bool = False) -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks training to stop after its step; the second interrupts at once.

    Started by torchrun, so does its SIGTERM, which it also sends to those left when a process is lost.
    """
    asked = False

    def ask(number: int, _: Any) -> None:
        nonlocal asked
        asked = True
        if number == signal.SIGINT:
            say("stopping when the step is done; Ctrl-C again stops at once, at the last checkpoint")
            signal.signal(signal.SIGINT, signal.default_int_handler)

    signals = [signal.SIGINT, signal.SIGTERM] if started else [signal.SIGINT]
    before = {number: signal.signal(number, ask) for number in signals}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
