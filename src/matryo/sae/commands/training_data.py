"""What `matryo sae train` trains on: a store, a file of activations, or the model as it reads."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryo.sae.commands.harvest import Text, check_text, pack_first, token_rows
from matryo.sae.commands.options import TrainOptions
from matryo.spine.errors import unknown
from matryo.spine.progress import say
from matryo.spine.run import read_run

if TYPE_CHECKING:
    from torch import Tensor

    from matryo.sae.train.parallel import Parallel


@dataclass(frozen=True)
class TrainingData:
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


def stored_data(options: TrainOptions) -> TrainingData:
    """The activations that --data names, shuffled for training."""
    from matryo.sae.activations import CALIBRATION_TOKENS
    from matryo.sae.lm.load import usable_device
    from matryo.sae.store import ShuffledBatches, in_order, open_activations

    usable_device(options.device)
    file = str(options.data).partition("#")[0]
    source, site, about = whole_path(str(options.data)), None, {}
    if Path(file).is_dir() and not (Path(file) / "store.json").is_file():
        run = read_run(Path(file))
        sites: dict[str, str] = run.outputs.get("sites", {})
        site = _one_site(options.site, sites, run.path)
        about = {"lm": run.outputs["lm"], "rows": str(run.path / run.outputs["rows"])}
        source = str(run.path / sites[site])
    table = open_activations(source)
    rows = len(table.rows("train"))
    if rows < options.batch_size:
        say(f"batches are of {rows:,} activations, all there are to train on, instead of {options.batch_size:,}")
    batches = ShuffledBatches(table, "train", min(options.batch_size, rows), options.seed)
    known = table.identity()
    return TrainingData(
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


class StreamedData:
    """Activations straight from the model: everything but the text is checked at once."""

    def __init__(self, options: TrainOptions) -> None:
        from matryo.sae.activations import site_width
        from matryo.sae.lm import load_lm, resolve_site

        if len(options.site) != 1:
            sites = " ".join(options.site) or "not given"
            raise ValueError(f"site is {sites}; expected one --site to stream from, or --data with a store")
        check_text(options)
        self.options = options
        self.packed: Text | None = None
        self.lm = load_lm(options.lm, options.device, options.lm_dtype, notify=say)
        self.site = resolve_site(self.lm, options.site[0]).name
        self.d_in = site_width(self.lm, self.site, options.row_length)

    def pack(self, runs: Path, parallel: "Parallel") -> None:
        """Read the text, before there is a run folder."""
        self.packed = pack_first(self.options, self.lm, runs, parallel)
        parallel.from_first(lambda: self.packed and self._check_length(self.packed))

    def open(self, run: Path, parallel: "Parallel") -> TrainingData:
        """Write the rows into the run folder, and stream them."""
        from matryo.sae.activations import ActivationStream, capture_batches

        options, lm, site = self.options, self.lm, self.site
        splits, texts = token_rows(options, lm, run, parallel, self.packed)
        self._check_length((splits, texts))
        training, aside = splits["train"], splits.get("calibration")
        return TrainingData(
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

    def _check_length(self, text: Text) -> None:
        if (given := text[0]["train"].n_tokens) < (size := self.options.batch_size):
            raise ValueError(f"batch_size is {size}; expected at most {given}, all tokens to train on")


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


def whole_path(data: str) -> str:
    """What --data names, by its whole path: PATH, or PATH#KEY."""
    file, hash_sign, key = data.partition("#")
    return str(Path(file).resolve()) + hash_sign + key


def _one_site(wanted: tuple[str, ...], sites: dict[str, str], path: Path) -> str:
    if not sites:
        raise ValueError(f"{path} holds no activations; expected a run of `matryo sae harvest`")
    if not wanted and len(sites) == 1:
        return next(iter(sites))
    if len(wanted) != 1 or wanted[0] not in sites:
        raise unknown(f"site of {path}", " ".join(wanted) or "(none)", sites, fix="name one with --site")
    return wanted[0]
