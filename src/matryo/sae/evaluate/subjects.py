"""Autoencoders of one site, with the model, text and activations to measure them on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matryo.sae.evaluate.runs import site_mean

if TYPE_CHECKING:
    from torch import Tensor

    from matryo.sae.lm import LM
    from matryo.sae.nn import SAE
    from matryo.sae.sources import NamedSAE
    from matryo.sae.text import TokenRows


@dataclass(eq=False)
class Subjects:
    """What a task is given: autoencoders in eval mode, by the names shown, and what they were trained on.

    The language model, the rows and the activations are opened when a task first asks for them.
    """

    saes: dict[str, SAE]
    runs: dict[str, str]
    "The run folder's name of every autoencoder."
    site: str | None
    "Where in the model, such as blocks.10.resid_pre; None for activations of no model."
    lm_name: str | None
    processing: dict[str, bool]
    rows_folder: Path | None
    store_source: str | None
    device: str = "cpu"
    lm_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    cache: dict[Any, Any] = field(default_factory=dict)
    """For what several tasks need, such as a site's activations on labelled texts. Shared by groups of the same model
    and site; begin a key with the module's name."""

    @property
    def label(self) -> str:
        """The group in a few words."""
        names = sorted(set(self.runs.values()))
        return names[0] if len(names) == 1 else f"{len(names)} runs"

    @cached_property
    def lm(self) -> LM:
        """The language model, as it was when the activations were made.

        Raises:
            ValueError: the runs have none; or its site has another width than the autoencoders; or its tokenizer is not
                the one of the rows.
        """
        if self.lm_name is None or self.site is None:
            raise ValueError(f"{self.label} was trained on an array; expected a run with a language model")
        key = ("lm", self.lm_name, self.lm_dtype, self.device, tuple(sorted(self.processing.items())))
        if key not in self.cache:
            from matryo.sae.lm import load_lm, processed

            self.cache[key] = processed(load_lm(self.lm_name, self.device, self.lm_dtype), self.processing)
        lm = self.cache[key]
        self._check(lm)
        return lm

    def _check(self, lm: LM) -> None:
        from matryo.sae.activations import site_width

        made_by, found = self._told().get("lm") or {}, lm.identity()
        for part in ("tokenizer", "weights"):
            if made_by.get(part) and found.get(part) and made_by[part] != found[part]:
                raise ValueError(
                    f"the {part} of {lm.name} has sha256 {found[part][:12]}…, {self.store_source} was made with "
                    f"{made_by[part][:12]}…; expected the same model: name the one that was harvested"
                )
        width = site_width(lm, str(self.site), 2)
        for name, sae in self.saes.items():
            if sae.config.d_in != width:
                raise ValueError(
                    f"{name} has width {sae.config.d_in}, {self.site} of {lm.name} has {width}; expected the model and "
                    "site that the SAE was trained on"
                )

    @cached_property
    def rows(self) -> TokenRows:
        """Held-out token rows, position 0 BOS.

        Raises:
            ValueError: the runs have none.
        """
        if self.rows_folder is None:
            raise ValueError(f"{self.label} has no token rows; expected a run trained on a model's activations")
        from matryo.sae.text import TokenRows

        rows = TokenRows.load(self.rows_folder / "heldout")
        if not len(rows.tokens):
            raise ValueError(f"{self.rows_folder} holds no held-out rows; expected some: raise heldout_fraction")
        return rows

    def heldout(self) -> Iterator[Tensor]:
        """Held-out activations (tokens, d_in) in batches, outliers left out: of the store, else from the model."""
        if self.store_source:
            from matryo.sae.store import in_order, open_activations

            yield from in_order(open_activations(self.store_source), "heldout", 4096)
            return
        from matryo.sae.activations import chunks, without_outliers

        site = str(self.site)
        for _, found in chunks(self.lm, self.rows, [site]):
            yield without_outliers(found[site].float())

    @cached_property
    def mean(self) -> Tensor | None:
        """The site's mean activation on training text, where a store has it."""
        return site_mean(self.store_source)

    def _told(self) -> dict[str, Any]:
        """What the store says its activations are of."""
        from matryo.sae.store import open_activations

        return open_activations(self.store_source).identity() if self.store_source else {}

    def identity(self) -> dict[str, Any]:
        """What the held-out activations are of, with hashes."""
        told: dict[str, Any] = {"site": self.site, "lm": self.lm_name, "processing": self.processing}
        if self.store_source:
            told["store"] = self._told()
        if self.rows_folder is not None:
            told["heldout_rows"] = self.rows.digest()
        return told


def open_subjects(
    saes: Iterable[NamedSAE], device: str = "cpu", lm_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
) -> list[Subjects]:
    """Autoencoders, as `matryo.sae.sources.read_saes` gives them, those of the same model, site and text together.

    Raises:
        ValueError: one belongs to no run, which would say what it is of.
    """
    groups: dict[tuple[Any, ...], Subjects] = {}
    caches: dict[Any, dict[Any, Any]] = {}
    for one in saes:
        told = one.outputs
        processing = told.get("processing") or {}
        model = (told.get("lm"), tuple(sorted(processing.items())), told.get("site"))
        key = (*model, told["rows"], told["store"])
        if key not in groups:
            groups[key] = Subjects(
                saes={},
                runs={},
                site=told.get("site"),
                lm_name=told.get("lm"),
                processing=processing,
                rows_folder=Path(told["rows"]) if told["rows"] else None,
                store_source=told["store"],
                device=device,
                lm_dtype=lm_dtype,
                cache=caches.setdefault(model, {}),
            )
        groups[key].saes[one.name] = one.sae.to(device)
        groups[key].runs[one.name] = one.run.path.name if one.run else ""
    return list(groups.values())
