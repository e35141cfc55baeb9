"""`matryo sae index`: finished runs with SAEs → an index that the dashboard is read from."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from matryo.sae.commands.harvest import interruptible
from matryo.sae.commands.options import stored_options
from matryo.sae.sources import NamedSAE, read_saes, runs_of, settled, sources_of
from matryo.spine.config import diff, read_toml, to_dict
from matryo.spine.progress import say
from matryo.spine.run import RunFolder

if TYPE_CHECKING:
    from matryo.sae.dashboard import Member
    from matryo.sae.lm import LM
    from matryo.sae.text import TokenRows


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """What is indexed."""

    split: Literal["train", "heldout"] = "train"
    "Part of the runs' text that is indexed."
    tokens: int | None = None
    "Tokens indexed, rounded up to whole rows; the whole part by default."
    device: str = "cpu"
    "Where models run."
    lm_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    "Number format of the language model."

    def __post_init__(self) -> None:
        """Check the values."""
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"tokens is {self.tokens}; expected a whole number of 1 or more")


LATEST = ("runs/latest",)


def index(
    run: tuple[str, ...] = LATEST,
    *,
    options: Annotated[IndexOptions | None, Parameter(name="*")] = None,
    runs: Path = Path("runs"),
    resume: Path | None = None,
) -> int:
    """Index the SAEs of finished runs over their text, for `matryo sae serve`.

    Every token is encoded once by every SAE; all of its active latents are kept, so that examples, intervals, quantiles
    and counts are exact. Stored activations are read where there are any; otherwise the model runs.

    Examples
    --------
        matryo sae index runs/latest --tokens 8000
        matryo sae index --run runs/latest --split heldout --tokens 4000

    Parameters
    ----------
    run
        Finished runs with SAEs, runs made from some, or single SAEs: RUN/saes/NAME, with @LEVEL behind it for its
        first latents. All of one language model and text.
    runs
        Folder of the runs.
    resume
        An interrupted index to go on with, with its own settings; another value of one is refused.
    """
    if resume is not None:
        run, stored = _stored(resume, run)
        options = options or stored
    with interruptible("index") as ended:
        path = index_runs(run, options or IndexOptions(), runs, resume, ended=ended)
        say(f"index: {path}; open it with: matryo sae serve {path}", run=str(path))
    return ended["code"]


def _stored(resume: Path, given: tuple[str, ...]) -> tuple[tuple[str, ...], IndexOptions]:
    """The SAEs and options that an unfinished index was told; a ValueError if others are given."""
    told, options = stored_options(resume, IndexOptions, "split")
    named = tuple(told.get("run", ()))
    if given not in (LATEST, named) and named != tuple(map(settled, given)):
        raise ValueError(f"{resume} indexes {' '.join(named)}, not {' '.join(given)}; expected --resume without them")
    begun = json.loads((resume / "environment.json").read_text(encoding="utf-8"))
    parents = [(resume.resolve() / parent["path"]).resolve() for parent in begun["parents"]]
    return tuple(indexed(told.get("run", ()), parents)), options


def indexed(sources: Iterable[str], parents: Sequence[Path]) -> list[str]:
    """The sources in an index's config, in the runs that it was made from, wherever those lie now."""
    by_name, found = {parent.name: parent for parent in parents}, []
    for source in map(Path, sources):
        run = next((above for above in (source, *source.parents) if above.name in by_name), None)
        found.append(str(by_name[run.name] / source.relative_to(run) if run else source))
    return found or [str(parent) for parent in parents]  # that of whole runs, told by another version


def index_runs(
    sources: Iterable[str | Path],
    options: IndexOptions,
    runs: Path,
    resume: Path | None = None,
    name: str = "index",
    ended: dict[str, Any] | None = None,
) -> Path:
    """Make an index run of the SAEs of other runs; `ended` is told of the run as soon as there is one."""
    from matryo.sae.dashboard import build_index
    from matryo.sae.lm.load import usable_device

    usable_device(options.device)
    saes = read_saes(sources)
    told = [one.outputs for one in saes]
    rows = _one_text(saes, options)
    named = read_toml(resume / "config.toml")["run"] if resume else sources_of(saes, whole=True)
    config = {"run": named, **to_dict(options)}
    lm = _model(told[0], options)
    folder = (
        RunFolder.reopen(resume, config) if resume else RunFolder.create(runs, name, "sae index", config, runs_of(saes))
    )
    with folder:
        if ended is not None:
            ended["run"] = folder.path
        members = _members(folder.path, saes, options)
        activations = _activations(told, rows, lm, options)
        about = _about(told[0], lm, options)
        unembed = lm.unembed().float().cpu() if _writes_to_stream(told) else None
        build_index(folder.path / "index", members, rows, _vocabulary(lm), activations, about, unembed)
        folder.finish({"index": "index", "indexed": sorted(members)})
    return folder.path


def _one_text(saes: list[NamedSAE], options: IndexOptions) -> "TokenRows":
    """The rows of all runs, once they are known to be the same."""
    from matryo.sae.text import TokenRows

    runs = {one.run.path: one.outputs for one in saes if one.run}
    first = next(iter(runs))
    for run, outputs in runs.items():
        if not outputs.get("lm") or not outputs.get("rows"):
            raise ValueError(f"{run} was trained on activations without text; expected a run with a model and text")
        keys = ("lm", "processing")
        if changed := diff({k: runs[first].get(k) for k in keys}, {k: outputs.get(k) for k in keys}):
            raise ValueError(f"{run} is of another model ({'; '.join(changed)}): index it by itself")
    rows = [TokenRows.load(Path(outputs["rows"]) / options.split) for outputs in runs.values()]
    for run, other in zip(runs, rows, strict=True):
        if other.digest() != rows[0].digest():
            raise ValueError(f"{run} has another text than {first}: index it by itself")
    if not len(rows[0].tokens):
        raise ValueError(f"the {options.split} part of {first} has no rows: give the other --split")
    per_row = rows[0].tokens.shape[1] - 1
    count = len(rows[0].tokens) if options.tokens is None else -(-options.tokens // per_row)
    return TokenRows(rows[0].tokens[:count], rows[0].document[:count], rows[0].names, rows[0].split_by)


def _model(outputs: dict[str, Any], options: IndexOptions) -> "LM":
    from matryo.sae.lm import load_lm, processed

    lm = load_lm(outputs["lm"], options.device, options.lm_dtype, notify=say)
    return processed(lm, outputs.get("processing") or {})


def _members(index: Path, saes: list[NamedSAE], options: IndexOptions) -> "dict[str, Member]":
    """What the index is told of each SAE. A prefix, which has no folder yet, gets one in the index's run."""
    from matryo.sae.dashboard import Member
    from matryo.sae.nn.folder import WEIGHTS
    from matryo.spine.fetch import file_sha256

    members: dict[str, Member] = {}
    for one in saes:
        place = one.weights.parent
        if one.place.level is not None:
            place = index / "saes" / one.name
            if not place.exists():  # an index that goes on has it
                one.sae.save(place, one.metadata)
        members[one.name] = Member(
            sae=one.sae.to(options.device),
            site=one.outputs["site"],
            folder=os.path.relpath(place, index),
            weights_sha256=file_sha256(place / WEIGHTS),
            run=one.run.path.name if one.run else "",
            role="stitched" if one.run and one.run.command in ("sae stitch", "sae family") else "sae",
        )
    return members


def _activations(
    told: list[dict[str, Any]], rows: "TokenRows", lm: "LM", options: IndexOptions
) -> Callable[[int], Iterable[tuple[int, dict[str, Any]]]]:
    """Stored activations where the one site has a store of the training text, else the model."""
    from matryo.sae.activations import chunks
    from matryo.sae.store import ActivationStore, open_activations

    sites = list(dict.fromkeys(outputs["site"] for outputs in told))
    stores = {outputs["store"] for outputs in told}
    if options.split == "train" and len(sites) == 1 and len(stores) == 1 and None not in stores:
        store = open_activations(stores.pop())
        if isinstance(store, ActivationStore):
            return lambda done: ((first, {sites[0]: x}) for first, x in store.in_token_order())

    def run(done: int) -> Iterable[tuple[int, dict[str, Any]]]:
        first_row = done // (rows.tokens.shape[1] - 1)
        return ((n, {s: x.float() for s, x in found.items()}) for n, found in chunks(lm, rows, sites, first_row))

    return run


def _about(outputs: dict[str, Any], lm: "LM", options: IndexOptions) -> dict[str, Any]:
    return {
        "lm": outputs["lm"],
        "lm_identity": lm.identity(),
        "processing": outputs.get("processing") or {},
        "split": options.split,
        "activations": "store" if outputs.get("store") and options.split == "train" else "model",
    }


def _writes_to_stream(told: list[dict[str, Any]]) -> bool:
    """Whether all sites are the residual stream or added to it, so that decoder rows can be read as logits."""
    return all(o["site"].rpartition(".")[2].startswith(("resid", "attn_out", "mlp_out")) for o in told)


def _vocabulary(lm: "LM") -> Any:
    from matryo.sae.dashboard import Vocabulary

    ids = range(lm.vocab_size)
    return Vocabulary(lm.decode_tokens(ids), lm.token_bytes(ids))
