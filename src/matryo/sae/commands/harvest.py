"""`matryo sae harvest`: text × language model → a store of activations."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from matryo.sae.commands.options import HarvestOptions, part, resume_line
from matryo.sae.store.config import StoreConfig
from matryo.spine.config import from_toml
from matryo.spine.progress import progress, say
from matryo.spine.run import RunFolder

if TYPE_CHECKING:
    from matryo.sae.commands.options import TextOptions
    from matryo.sae.lm import LM
    from matryo.sae.text import TokenRows


def harvest(
    recipe: str | None = None,
    *,
    options: Annotated[HarvestOptions | None, Parameter(name="*")] = None,
    resume: Path | None = None,
    runs: Path = Path("runs"),
) -> int:
    """Run a language model over text and store its activations, shuffled, on disk.

    The forward pass stops at the last site. A harvest that is interrupted, or killed, goes on with --resume and loses
    or repeats no token.

    Examples
    --------
        matryo sae harvest tiny --tokens 20000 --row-length 128
        matryo sae harvest --lm tiny --site blocks.1.mlp_out --site blocks.2.resid_pre --tokens 10000 --dtype float32

    Parameters
    ----------
    recipe
        Named config to start from; `matryo sae recipes` lists them.
    resume
        Unfinished harvest to go on with.
    runs
        Folder of the runs.
    """
    if resume is not None and options is None:
        options = from_toml(HarvestOptions, resume / "config.toml")
    with interruptible("harvest") as ended:
        run = harvest_run(options or HarvestOptions(), runs, recipe or "harvest", resume, ended)
        say(f"store: {run}", run=str(run))
    return ended["code"]


def harvest_run(
    options: HarvestOptions, runs: Path, name: str = "harvest", resume: Path | None = None, ended: Any = None
) -> Path:
    """Harvest into a new run folder, or into an unfinished one, and return it."""
    from matryo.sae.activations import site_width
    from matryo.sae.lm import load_lm, resolve_site
    from matryo.sae.store import StoreWriter
    from matryo.sae.text import open_source

    # Whatever can be refused without a run folder is refused before there is one.
    lm = load_lm(options.lm, options.device, options.lm_dtype, notify=say)
    for site in options.site:
        resolve_site(lm, site)
    for spec in options.text:
        open_source(spec)
    run = RunFolder.reopen(resume, options) if resume else RunFolder.create(runs, name, "sae harvest", options)
    with run:
        if ended is not None:
            ended["run"] = run.path
        splits, texts = token_rows(options, lm, run.path)
        used = options.row_length - int(options.skip_first)
        counts = {split: len(rows.tokens) * used for split, rows in splits.items()}
        writers = {
            site: StoreWriter(
                run.path / site_folder(site),
                counts,
                site_width(lm, site, options.row_length),
                part(options, StoreConfig),
            )
            for site in options.site
        }
        with progress("harvest", sum(counts.values()), "tokens") as bar:
            try:
                _fill(lm, splits, writers, used, options.skip_first, bar)
            finally:
                for writer in writers.values():
                    writer.commit()
        about = {"lm": lm.identity(), "text": texts, "row_length": options.row_length, "skip_first": options.skip_first}
        about["rows"] = {split: rows.digest() for split, rows in splits.items()}
        for site, writer in writers.items():
            writer.finish(about | {"site": site})
        sites = {site: site_folder(site) for site in options.site}
        run.finish({"sites": sites, "rows": "rows", "tokens": counts, "lm": options.lm, "text": texts})
    return run.path


def _fill(lm: "LM", splits: dict[str, "TokenRows"], writers: Any, used: int, skip_first: bool, bar: Any) -> None:
    from matryo.sae.activations import chunks

    for split, rows in splits.items():
        first = min(writer.done(split) for writer in writers.values()) // used
        bar.advance(first * used)
        for token, found in chunks(lm, rows, list(writers), first, skip_first):
            for site, values in found.items():
                writers[site].write(split, token, values.cpu())
            bar.advance(len(next(iter(found.values()))))


def token_rows(options: "TextOptions", lm: "LM", folder: Path) -> tuple[dict[str, "TokenRows"], list[dict[str, Any]]]:
    """The run's rows of token ids by split, packed and written on first use, and what the texts are."""
    from matryo.sae.text import RowsConfig, TokenRows, open_source, pack_rows

    sources = [open_source(spec, say) for spec in options.text]
    texts = [source.describe() for source in sources]
    if (folder / "rows" / "heldout" / "rows.json").is_file():
        saved = sorted(path.parent for path in (folder / "rows").glob("*/rows.json"))
        return {path.name: TokenRows.load(path) for path in saved}, texts
    config = RowsConfig(
        row_length=options.row_length,
        max_tokens=options.tokens,
        heldout_fraction=options.heldout_fraction,
        calibration_fraction=options.calibration_fraction,
        seed=options.seed,
    )
    with progress("text", None, "rows") as bar:
        splits = pack_rows(sources, lm.encode, lm.bos_id, config)
        bar.note(
            ", ".join(f"{len(rows.tokens):,} {split} rows of {options.row_length}" for split, rows in splits.items())
        )
    for split in sorted(splits, key=lambda split: split == "heldout"):  # held-out last: with it the rows are complete
        splits[split].save(folder / "rows" / split)
    return splits, texts


def site_folder(site: str) -> str:
    """The folder of a site's store within a harvest run."""
    return "store-" + "".join(c if c.isalnum() or c in "._-" else "_" for c in site)


@contextmanager
def interruptible(command: str) -> Iterator[dict[str, Any]]:
    """Turn Ctrl-C into exit code 130 and the line that says how to go on."""
    ended: dict[str, Any] = {"code": 0, "run": None}
    try:
        yield ended
    except KeyboardInterrupt:
        ended["code"] = 130
        say(f"interrupted; {resume_line(command, ended['run'])}" if ended["run"] else "interrupted")
