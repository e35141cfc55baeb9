"""The held-out activations of one site that SAEs are compared on, and the model they are of."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryo.sae.evaluate.runs import open_model
from matryo.sae.sources import NamedSAE, no_activations

if TYPE_CHECKING:
    from torch import Tensor

    from matryo.sae.lm import LM

BATCH = 4_096


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
            outputs = one.outputs
            if outputs.get("store") or (outputs.get("lm") and outputs.get("rows")):
                return outputs, one.run.path
    raise no_activations(saes[0], "matryo sae adopt makes one; or --data with a harvest run, a store or an array")


def _data(saes: Sequence[NamedSAE], data: str) -> tuple[dict[str, Any], Path | None]:
    from matryo.sae.commands.options import TrainOptions
    from matryo.sae.commands.training_data import stored_data
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


def relative_outputs(outputs: dict[str, Any], run: Path) -> dict[str, Any]:
    """A site's outputs for another run folder: places told relative to it."""
    kept = {key: outputs.get(key) for key in ("site", "lm", "processing") if outputs.get(key)}
    return kept | {key: outputs.get(key) and os.path.relpath(outputs[key], run) for key in ("rows", "store")}


def check_one_site(saes: Sequence[NamedSAE]) -> None:
    """See that SAEs are of one site of one model, which was processed alike.

    Raises:
        ValueError: they are not; what differs is named.
    """
    for one in saes[1:]:
        for what, a, b in zip(("width", "model", "site", "normalisation"), _of(saes[0]), _of(one), strict=True):
            if None not in (a, b) and a != b:
                raise ValueError(
                    f"{saes[0].name} is of {what} {a}, {one.name} of {b}; expected SAEs of one site: leave one out"
                )


def _of(one: NamedSAE) -> tuple[Any, ...]:
    from matryo.sae.lm.sites import one_name

    told, outputs = one.metadata, one.run.outputs if one.run else {}
    processing = outputs.get("processing") or told.get("model_from_pretrained_kwargs") or {}
    alike = "centred weights" if processing.get("center_writing_weights") else "none"
    return one.sae.W_dec.shape[1], told.get("model_name"), told.get("hook_name") and one_name(told["hook_name"]), alike
