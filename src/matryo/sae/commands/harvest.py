"""`matryo sae harvest`: text × language model → a store of activations."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from matryo.sae.commands.options import HarvestOptions, part, resume_line, stored_options
from matryo.sae.commands.sharing import Together, open_run, together
from matryo.sae.store.config import StoreConfig
from matryo.spine.config import write_text
from matryo.spine.progress import progress, say
from matryo.spine.run import RunFolder

if TYPE_CHECKING:
    from matryo.sae.commands.options import TextOptions
    from matryo.sae.lm import LM
    from matryo.sae.text import RowsConfig, TokenRows
    from matryo.sae.train.parallel import Parallel


def harvest(
    recipe: str | None = None,
    *,
    options: Annotated[HarvestOptions | None, Parameter(name="*")] = None,
    resume: Path | None = None,
    runs: Path = Path("runs"),
) -> int:
    """Run a language model over text and store its activations, shuffled, on disk.

    The forward pass stops at the last site. A harvest that is interrupted, or killed, goes on with --resume and loses
    or repeats no token. Started by torchrun, each of several processes runs its share of the rows.

    Examples
    --------
        matryo sae harvest tiny --tokens 20000 --row-length 128
        matryo sae harvest --lm tiny --site blocks.1.mlp_out --site blocks.2.resid_pre --tokens 10000 --dtype float32

    Parameters
    ----------
    recipe
        Named config to start from; `matryo sae recipes` lists them.
    resume
        Unfinished harvest to go on with, with its own settings; another value of one is refused.
    runs
        Folder of the runs.
    """
    if resume is not None:
        _, told = stored_options(resume, HarvestOptions, "dtype", "shard_rows")
        options = options or told
    options = options or HarvestOptions()
    with interruptible("harvest") as ended, together("harvest", None, options.device) as shared:
        with _terminable(shared):
            run = harvest_run(options, runs, recipe or "harvest", resume, ended, shared)
        say(f"store: {run}", run=str(run))
    return ended["code"] or shared.code


def harvest_run(
    options: HarvestOptions,
    runs: Path,
    name: str = "harvest",
    resume: Path | None = None,
    ended: Any = None,
    shared: Together | None = None,
) -> Path:
    """Harvest into a new run folder, or into an unfinished one, and return it."""
    from matryo.sae.activations import share_of_rows, site_width
    from matryo.sae.lm import load_lm, resolve_site
    from matryo.sae.store import BackgroundWriter, StoreWriter

    # Whatever can be refused without a run folder is refused before there is one.
    lm = load_lm(options.lm, options.device, options.lm_dtype, notify=say)
    options = replace(options, site=tuple(resolve_site(lm, site).name for site in options.site))
    store_config, _ = part(options, StoreConfig), check_text(options)
    widths = {site: site_width(lm, site, options.row_length) for site in options.site}
    shared = shared or Together()
    parallel = shared.parallel()

    packed = None if resume else pack_first(options, lm, runs, parallel)

    def make() -> RunFolder:
        return RunFolder.reopen(resume, options) if resume else RunFolder.create(runs, name, "sae harvest", options)

    with open_run(parallel, make) as run:
        shared.run = run.path
        if ended is not None:
            ended["run"] = run.path
        splits, texts = token_rows(options, lm, run.path, parallel, packed)
        used = options.row_length - int(options.skip_first)
        counts = {split: len(rows.tokens) * used for split, rows in splits.items()}
        mine = {split: share_of_rows(rows, parallel.rank, parallel.size) for split, rows in splits.items()}
        begin = {split: first * used for split, (first, _) in mine.items()}
        journal = f"journal-{parallel.rank}.json" if parallel.size > 1 else "journal.json"

        def writer_of(site: str) -> StoreWriter:
            return StoreWriter(run.path / site_folder(site), counts, widths[site], store_config, begin, journal)

        if parallel.size > 1:
            parallel.from_first(lambda: [bool(writer_of(site)) for site in options.site])  # reserves the space
        writers = {site: writer_of(site) for site in options.site}
        total = sum((stop - first) * used for first, stop in mine.values())
        with progress("harvest", total, "tokens") as bar, BackgroundWriter(writers) as writing:
            _fill(lm, splits, mine, writing, used, options.skip_first, bar)
        if shared.processes is not None:
            shared.processes.wait_for_all("written")
        if not parallel.first:
            return run.path
        about = {"lm": lm.identity(), "text": texts, "row_length": options.row_length, "skip_first": options.skip_first}
        about["rows"] = {split: rows.digest() for split, rows in splits.items()}
        for site, writer in writers.items():
            writer.finish(about | {"site": site})
        sites = {site: site_folder(site) for site in options.site}
        run.finish({"sites": sites, "rows": "rows", "tokens": counts, "lm": options.lm, "text": texts})
    return run.path


def _fill(
    lm: "LM",
    splits: dict[str, "TokenRows"],
    mine: dict[str, tuple[int, int]],
    writing: Any,
    used: int,
    skip_first: bool,
    bar: Any,
) -> None:
    from matryo.sae.activations import chunks

    # Before the first chunk is given: what is done is the thread's to change from then on.
    done = {split: min(writer.done(split) for writer in writing.writers.values()) // used for split in splits}
    for split, rows in splits.items():
        first, stop = mine[split]
        bar.advance((min(done[split], stop) - first) * used)
        for token, found in chunks(lm, rows, list(writing.writers), done[split], skip_first, stop):
            writing.write(split, token, {site: values.cpu() for site, values in found.items()})
            bar.advance(len(next(iter(found.values()))))


Text = tuple[dict[str, "TokenRows"], list[dict[str, Any]]]  # rows of token ids by split, and what the texts are


def pack_first(options: "TextOptions", lm: "LM", runs: Path, parallel: "Parallel | None" = None) -> "Text | None":
    """The text as rows in unnamed files, before there is a run folder; None in a process that follows the first.

    Raises:
        ValueError: the text cannot be read, or is too little.
    """
    made: list[Text] = []

    def pack() -> bool:
        made.append(_pack(options, lm, next(place for place in (runs, *runs.absolute().parents) if place.is_dir())))
        return True

    pack() if parallel is None else parallel.from_first(pack)
    return made[0] if made else None


def token_rows(
    options: "TextOptions", lm: "LM", run: Path, parallel: "Parallel | None" = None, packed: "Text | None" = None
) -> "Text":
    """The run's rows, written on first use, and packed if that was not done before."""
    if parallel is not None:
        parallel.from_first(lambda: bool(_saved_rows(options, lm, run, packed)))
    return _saved_rows(options, lm, run, packed)


def _saved_rows(options: "TextOptions", lm: "LM", run: Path, packed: "Text | None") -> "Text":
    from matryo.sae.text import TokenRows

    folder, told = run / "rows", run / "rows" / "texts.json"
    if not (folder / "heldout" / "rows.json").is_file():
        folder.mkdir(exist_ok=True)
        splits, texts = packed or _pack(options, lm, folder)
        write_text(told, json.dumps(texts, indent=1))
        # Held-out rows last: with them all is there.
        for split in sorted(splits, key=lambda split: split == "heldout"):
            splits.pop(split).save(folder / split)  # and lets go of the file it was packed in
    saved = [split for split in ("train", "heldout", "calibration") if (folder / split).is_dir()]
    rows = {split: TokenRows.load(folder / split) for split in saved}
    return rows, json.loads(told.read_text(encoding="utf-8"))


def _pack(options: "TextOptions", lm: "LM", folder: Path) -> "Text":
    """Read the sources and pack them, in unnamed files of the folder."""
    from matryo.sae.text import open_source, pack_rows

    sources = [open_source(spec, say) for spec in options.text]
    with progress("text", None, "rows") as bar:
        splits = pack_rows(sources, lm.encode, lm.bos_id, check_text(options), folder)
        bar.note(
            ", ".join(f"{len(rows.tokens):,} {split} rows of {options.row_length}" for split, rows in splits.items())
        )
        bar.advance(sum(len(rows.tokens) for rows in splits.values()))
    # After reading: a data set of the hub knows its commit then.
    return splits, [source.describe() for source in sources]


def check_text(options: "TextOptions") -> "RowsConfig":
    """How the options' text becomes rows; a ValueError if it cannot, or if a source is unknown."""
    from matryo.sae.text import RowsConfig, open_source

    for spec in options.text:
        open_source(spec)
    if options.tokens is not None and options.tokens < 1:
        raise ValueError(f"tokens is {options.tokens}; expected 1 or more, or none for all of the text")
    return RowsConfig(
        row_length=options.row_length,
        max_tokens=options.tokens,
        heldout_fraction=options.heldout_fraction,
        calibration_fraction=options.calibration_fraction,
        seed=options.seed,
    )


def site_folder(site: str) -> str:
    """The folder of a site's store within a harvest run."""
    return "store-" + "".join(c if c.isalnum() or c in "._-" else "_" for c in site)


@contextmanager
def _terminable(shared: Together) -> Iterator[None]:
    """Take torchrun's SIGTERM, which it sends to those left when a process is lost, for a Ctrl-C."""
    if shared.processes is None:
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def interruptible(command: str) -> Iterator[dict[str, Any]]:
    """Turn Ctrl-C into exit code 130 and the line that says how to go on."""
    ended: dict[str, Any] = {"code": 0, "run": None}
    try:
        yield ended
    except KeyboardInterrupt:
        ended["code"] = 130
        say(f"interrupted; {resume_line(command, ended['run'])}" if ended["run"] else "interrupted")
