"""SAEs named on a command line, and the activations they are of."""

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryo.sae.evaluate.runs import located, open_model, training_runs
from matryo.spine.config import read_toml
from matryo.spine.run import FinishedRun

if TYPE_CHECKING:
    from torch import Tensor

    from matryo.sae.lm import LM
    from matryo.sae.nn import SAE

BATCH = 4_096


@dataclass(frozen=True, eq=False)
class NamedSAE:
    """One SAE, with what its files and its run tell of it."""

    name: str
    sae: "SAE"
    metadata: dict[str, Any]
    run: FinishedRun | None


def read_saes(source: str) -> list[NamedSAE]:
    """The SAEs of a run, or the one of a folder or `hf:` name; `@LEVEL` behind it takes the first latents.

    A folder RUN/saes/NAME belongs to its run.

    Raises:
        ValueError: there are none.
        OSError: nothing is there.
    """
    from matryo.sae.interop import load_foreign

    place, level = _level(source)
    folder = Path(place)
    if (folder / "environment.json").is_file():
        listed = [(name, run.path / inside, run) for run in training_runs(folder) for name, inside in _saes(run)]
    else:
        local = not place.startswith("hf:")
        listed = [(_short(place), place, _run_of(folder.resolve()) if local else None)]
    named = []
    for name, at, run in listed:
        found = load_foreign(at)
        named.append(_cut(NamedSAE(name, found.sae, found.metadata, run), level))
    return named


def one_sae(source: str) -> NamedSAE:
    """The one SAE at a source.

    Raises:
        ValueError: there are several; how to name one is said.
    """
    found = read_saes(source)
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise ValueError(f"{source} has {len(found)} SAEs; expected one, as {source}/saes/NAME: {names}")
    return found[0]


def check_comparable(saes: Sequence[NamedSAE]) -> None:
    """See that SAEs are of one site of one model, which was processed alike.

    Raises:
        ValueError: they are not; what differs is named.
    """
    from matryo.sae.lm.sites import one_name

    first = saes[0]
    for one in saes:
        if one.sae.config.transcoder:
            raise ValueError(f"{one.name} is a transcoder; expected SAEs, which reconstruct the site they read")
        for what, mine, other in zip(
            ("width", "model", "site", "normalisation"), _told(one), _told(first), strict=True
        ):
            same = mine == other or (what == "site" and None not in (mine, other) and one_name(mine) == one_name(other))
            if None not in (mine, other) and not same:
                raise ValueError(
                    f"{first.name} is of {what} {other}, {one.name} of {mine}; expected SAEs of the same: only "
                    "latents of the "
                    "same activations can be stitched"
                )


def _told(one: NamedSAE) -> tuple[Any, ...]:
    told = one.metadata
    processing = (one.run.outputs.get("processing") if one.run else None) or told.get("model_from_pretrained_kwargs")
    centred = "centred weights" if (processing or {}).get("center_writing_weights") else "none"
    return one.sae.config.d_in, told.get("model_name"), told.get("hook_name"), centred


@dataclass(frozen=True, eq=False)
class Site:
    """Held-out activations, read again for each pass, and the model they are of where it is at hand."""

    outputs: dict[str, Any]
    "Site, lm, rows and store, as a training run tells them, with whole paths."
    tokens: int
    parent: Path | None
    "The run that the activations are of."
    held: "tuple[Tensor, ...] | None" = None
    "In memory where there is no store to read."

    def batches(self) -> "Iterator[Tensor]":
        """The activations, the same each time."""
        from matryo.sae.store import in_order, open_activations

        source = self.held or in_order(open_activations(self.outputs["store"]), "heldout", BATCH)
        yield from _first(source, self.tokens)

    def calibration(self) -> "list[Tensor]":
        """Activations set aside for thresholds, those measured on where there are none."""
        from matryo.sae.store import in_order, open_activations

        if self.outputs.get("store"):
            kept = list(_first(in_order(open_activations(self.outputs["store"]), "calibration", BATCH), self.tokens))
            if kept:
                return kept
        return list(self.batches())


def open_site(saes: Sequence[NamedSAE], data: str | None, tokens: int, options: Any) -> Site:
    """The held-out activations of the SAEs' site: those of --data, else of the first SAE's run that has some.

    Raises:
        ValueError: there are none at hand, or they have another width.
    """
    outputs, parent = _data(saes, data) if data else _of_runs(saes)
    if outputs.get("store"):
        from matryo.sae.store import open_activations

        table = open_activations(outputs["store"])
        site = Site(outputs, min(tokens, len(table.rows("heldout"))), parent)
        width = table.d_in
    else:
        site = _captured(outputs, parent, tokens, options)
        width = site.held[0].shape[1] if site.held else 0
    for one in saes:
        if one.sae.config.d_in != width:
            raise ValueError(
                f"{one.name} has width {one.sae.config.d_in}, the activations have {width}; expected those of its site"
            )
    return site


def model_of(site: Site, options: Any) -> "tuple[LM | None, Any]":
    """The language model and its held-out rows, where cross-entropies are wanted and the site's data tell them."""
    return open_model(site.outputs, options.device, options.lm_dtype) if options.ce_tokens else (None, None)


def _of_runs(saes: Sequence[NamedSAE]) -> tuple[dict[str, Any], Path]:
    for one in saes:
        if one.run is not None:
            outputs = located(one.run.path, one.run.outputs)
            if outputs.get("store") or (outputs.get("lm") and outputs.get("rows")):
                return outputs, one.run.path
    raise ValueError(
        f"no activations of {saes[0].name} are at hand, as it belongs to no run; expected an SAE of a run (matryo sae "
        "adopt makes "
        "one), or --data with a harvest run, a store or an array"
    )


def _data(saes: Sequence[NamedSAE], data: str) -> tuple[dict[str, Any], Path | None]:
    from matryo.sae.commands.options import TrainOptions
    from matryo.sae.commands.train import stored_data
    from matryo.sae.lm import transformer_lens_name

    place = Path(data).resolve()
    run = place if (place / "run.json").is_file() else None
    sites = training_sites(place) if run else {}
    hook = next((one.metadata["hook_name"] for one in saes if one.metadata.get("hook_name")), None)
    named = tuple(site for site in sites if hook in (site, transformer_lens_name(site)))
    if sites and hook and not named:
        raise ValueError(f"{data} has activations of {', '.join(sites)}; expected {hook}, the SAEs' site")
    found = stored_data(TrainOptions(data=data, site=named))
    outputs = {"site": found.site, "lm": found.lm, "rows": found.rows, "store": found.store}
    return outputs, run


def training_sites(run: Path) -> dict[str, str]:
    """The stores of a harvest run by site."""
    from matryo.spine.run import read_run

    return read_run(run).outputs.get("sites", {})


def _captured(outputs: dict[str, Any], parent: Path | None, tokens: int, options: Any) -> Site:
    from matryo.sae.activations import chunks, without_outliers
    from matryo.sae.lm import load_lm, processed
    from matryo.sae.text import TokenRows

    rows = TokenRows.load(Path(outputs["rows"]) / "heldout")
    lm = processed(load_lm(outputs["lm"], options.device, options.lm_dtype), outputs.get("processing") or {})
    name = outputs["site"]
    found = (without_outliers(part[name].float().cpu()) for _, part in chunks(lm, rows, [name]))
    held = tuple(_first(found, tokens))
    return Site(outputs, sum(map(len, held)), parent, held)


def _first(batches: "Iterable[Tensor]", tokens: int) -> "Iterator[Tensor]":
    left = tokens
    for x in batches:
        if left <= 0:
            return
        yield x[:left]
        left -= len(x)


def _level(source: str) -> tuple[str, int | None]:
    text, at, level = source.rpartition("@")
    return (text, int(level)) if at and level.isdigit() and not Path(source).exists() else (source, None)


def settled(source: str) -> str:
    """A source by its whole path, for a run to be resumed from: `runs/latest` is that run itself in a moment."""
    place, level = _level(source)
    if place.startswith("hf:") or not Path(place).exists():
        return source
    return str(Path(place).resolve()) + ("" if level is None else f"@{level}")


def told_by(resume: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """The config of a run to be resumed, which has these keys if it is one of the command's own."""
    told = read_toml(resume / "config.toml")
    if not set(keys) <= told.keys():
        raise ValueError(f"{resume} is a run of another command; expected an unfinished one of this")
    return told


def _cut(one: NamedSAE, level: int | None) -> NamedSAE:
    if level is None:
        return one
    if one.sae.config.kind == "topk" and not getattr(one.sae, "by_threshold", True) and level < len(one.sae.W_dec):
        raise ValueError(
            f"{one.name}@{level} is a prefix of a TopK SAE without levels, whose latents compete with all others for k "
            "places; expected an SAE with levels or of another kind: leave @ out"
        )
    return NamedSAE(f"{one.name}@{level}", one.sae.prefix(level), one.metadata, one.run)


def _run_of(folder: Path) -> FinishedRun | None:
    """The finished run whose SAE a folder, or a weight file in it, is."""
    for above in itertools.islice(folder.parents, 3 if folder.is_file() else 2):
        if (above / "run.json").is_file():
            return training_runs(above)[0]
    return None


def _short(place: str) -> str:
    """The last part of a path or name."""
    if place.startswith("hf:"):
        return re.split(r"[/:]", place)[-1]
    folder = Path(place).resolve()
    return (folder.parent if folder.is_file() else folder).name


def _saes(run: FinishedRun) -> list[tuple[str, str]]:
    """Names and folders of a run's SAEs."""
    return list(run.outputs["saes"].items())


def relative_outputs(outputs: dict[str, Any], run: Path) -> dict[str, Any]:
    """A site's outputs for another run folder: places told relative to it."""
    kept = {key: outputs.get(key) for key in ("site", "lm", "processing") if outputs.get(key)}
    return kept | {key: outputs.get(key) and os.path.relpath(outputs[key], run) for key in ("rows", "store")}


def distinct(saes: Iterable[NamedSAE]) -> dict[str, NamedSAE]:
    """SAEs by name, those of the same name with their run's before it."""
    listed = list(saes)
    names = [one.name for one in listed]
    found: dict[str, NamedSAE] = {}
    for one in listed:
        name = one.name
        if names.count(name) > 1 and one.run is not None:
            name = f"{one.run.path.name}-{name}"
        while name in found:
            name += "'"
        found[name] = one
    return found
