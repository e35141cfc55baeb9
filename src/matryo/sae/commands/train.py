"""`matryo sae train`: activations → autoencoders."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from matryo.sae.commands.harvest import check_text, token_rows
from matryo.sae.commands.options import TrainOptions, part, resume_line
from matryo.sae.commands.sharing import Mode, Together, open_run, together
from matryo.sae.train.config import TrainConfig
from matryo.spine.config import from_toml
from matryo.spine.errors import unknown
from matryo.spine.progress import progress, say
from matryo.spine.run import RunFolder, read_run

if TYPE_CHECKING:
    from torch import Tensor

    from matryo.sae.train import TrainResult
    from matryo.sae.train.parallel import Parallel


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
        Unfinished training run to go on with.
    runs
        Folder of the runs.
    log
        Also log to tensorboard, wandb or trackio (each must be installed).
    parallel
        What torchrun's processes share out: data, latents or grid; data for one autoencoder, else grid, when not given.
    """
    if resume is not None and options is None:
        options = from_toml(TrainOptions, resume / "config.toml")
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
    if harvested:
        # `runs/latest` will be this run in a moment.
        options = replace(options, data=harvested)
    # Whatever can be refused without a run folder is refused before there is one.
    stored, stream = (stored_data(options), None) if options.data else (None, _Stream(options))
    grid = options.grid((stored or stream).d_in)  # pyright: ignore[reportOptionalMemberAccess]
    saes = parallel.build({cfg.name: cfg for cfg in grid}, options.device)

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
        names = {"saes": {cfg.name: f"saes/{cfg.name}" for cfg in grid}}
        run.finish(names | _outputs(data, result, run.path))
    return run.path, True


def _outputs(data: "_Data", result: "TrainResult", run: Path) -> dict[str, Any]:
    """What a run says of its data and its end."""
    outputs = {"site": data.site, "lm": data.lm, "steps": result.steps, "tokens": result.tokens}
    outputs |= {"seconds": result.seconds, "scale": result.scale}
    # Relative to this run, so that a folder of runs can be moved.
    outputs |= {key: path and os.path.relpath(path, run) for key, path in data.places.items()}
    return outputs | {"last": result.last}


@dataclass(frozen=True)
class _Data:
    """Where a run's activations come from, and what is known of them."""

    batches: Iterable[Any]
    batches_per_pass: float
    calibration: "list[Tensor] | None"
    d_in: int
    metadata: dict[str, Any]
    site: str | None = None
    lm: str | None = None
    rows: str | None = None
    store: str | None = None

    @property
    def places(self) -> dict[str, str | None]:
        """Where the token rows and the store are."""
        return {"rows": self.rows, "store": self.store}


def stored_data(options: TrainOptions) -> _Data:
    """The activations that --data names, shuffled for training."""
    from matryo.sae.activations import CALIBRATION_TOKENS
    from matryo.sae.lm.load import usable_device
    from matryo.sae.store import ShuffledBatches, in_order, open_activations

    usable_device(options.device)
    file, hash_sign, key = str(options.data).partition("#")
    source, site, about = str(Path(file).resolve()) + hash_sign + key, None, {}
    if Path(file).is_dir() and not (Path(file) / "store.json").is_file():
        run = read_run(Path(file))
        sites: dict[str, str] = run.outputs.get("sites", {})
        site = _one_site(options.site, sites, run.path)
        about = {"lm": run.outputs["lm"], "rows": str(run.path / run.outputs["rows"])}
        source = str(run.path / sites[site])
    table = open_activations(source)
    rows = len(table.rows("train"))
    batches = ShuffledBatches(table, "train", min(options.batch_size, rows), options.seed)
    known = table.identity()
    return _Data(
        batches=batches,
        batches_per_pass=len(batches),
        calibration=list(in_order(table, "calibration", 4096, CALIBRATION_TOKENS)),
        d_in=table.d_in,
        metadata=sae_metadata(about.get("lm"), site, known.get("row_length"), known.get("text", [])),
        site=site,
        rows=about.get("rows"),
        lm=about.get("lm"),
        store=source,
    )


class _Stream:
    """Activations straight from the model: everything but the text is checked at once."""

    def __init__(self, options: TrainOptions) -> None:
        from matryo.sae.activations import site_width
        from matryo.sae.lm import load_lm, resolve_site

        if len(options.site) != 1:
            sites = " ".join(options.site) or "not given"
            raise ValueError(f"site is {sites}; expected one --site to stream from, or --data with a store")
        check_text(options)
        self.options = options
        self.lm = load_lm(options.lm, options.device, options.lm_dtype, notify=say)
        self.site = resolve_site(self.lm, options.site[0]).name
        self.d_in = site_width(self.lm, self.site, options.row_length)

    def open(self, run: Path, parallel: "Parallel") -> _Data:
        """Pack the text into rows of the run folder, and stream them."""
        from matryo.sae.activations import ActivationStream, capture_batches

        options, lm, site = self.options, self.lm, self.site
        parallel.from_first(lambda: bool(token_rows(options, lm, run)))
        splits, texts = token_rows(options, lm, run)
        training, aside = splits["train"], splits.get("calibration")
        if (given := training.n_tokens) < options.batch_size:
            raise ValueError(f"batch_size is {options.batch_size}; expected at most {given}, all tokens to train on")
        return _Data(
            batches=ActivationStream(
                lm, training, site, options.batch_size, buffer_tokens=options.buffer_tokens, seed=options.seed
            ),
            batches_per_pass=len(training.tokens) * (options.row_length - 1) / options.batch_size,
            calibration=capture_batches(lm, aside, site, options.batch_size) if aside else None,
            d_in=self.d_in,
            metadata=sae_metadata(options.lm, site, options.row_length, texts),
            site=site,
            rows=str((run / "rows").resolve()),
            lm=options.lm,
        )


def sae_metadata(
    lm: str | None, site: str | None, row_length: int | None, texts: list[dict[str, Any]]
) -> dict[str, Any]:
    """SAELens' metadata keys for a folder; sites under the names it uses."""
    from matryo.sae.lm import transformer_lens_name

    return {
        "model_name": lm,
        "hook_name": site and transformer_lens_name(site),
        "hook_head_index": None,
        "prepend_bos": True,
        "context_size": row_length,
        "dataset_path": ", ".join(str(text.get("spec", "")) for text in texts) or None,
        "model_from_pretrained_kwargs": {},
        "exclude_special_tokens": False,
        "seqpos_slice": None,
        "neuronpedia_id": None,
    }


def _one_site(wanted: tuple[str, ...], sites: dict[str, str], path: Path) -> str:
    if not sites:
        raise ValueError(f"{path} holds no activations; expected a run of `matryo sae harvest`")
    if not wanted and len(sites) == 1:
        return next(iter(sites))
    if len(wanted) != 1 or wanted[0] not in sites:
        raise unknown(f"site of {path}", " ".join(wanted) or "(none)", sites, fix="name one with --site")
    return wanted[0]


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
