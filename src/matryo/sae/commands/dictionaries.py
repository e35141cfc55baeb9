"""SAEs by run or by folder, and whether they belong together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryo.sae.evaluate.runs import located, training_runs
from matryo.spine.run import FinishedRun

if TYPE_CHECKING:
    from matryo.sae.nn import SAE


@dataclass(frozen=True)
class Dictionary:
    """One SAE, where it lies, and what is known of it."""

    name: str
    folder: Path
    sae: "SAE"
    site: str | None
    "As its folder says it; None where it does not."
    run: FinishedRun | None

    @property
    def outputs(self) -> dict[str, Any]:
        """What its training run says of model and text; empty without a run."""
        return located(self.run.path, self.run.outputs) if self.run else {}


def load_dictionaries(paths: Iterable[Path], known: Mapping[str, Dictionary] | None = None) -> dict[str, Dictionary]:
    """All SAEs of finished runs (or runs made from some) and of SAE folders of any known format, each under its own name.

    Those that are known already are left out, and have to be of the same site.

    Raises:
        ValueError: a path holds none, or the SAEs belong to different sites or widths (both are named).
        OSError: a weight file cannot be read.
    """
    found = dict(known or {})
    for path in paths:
        if not (path / "environment.json").is_file():
            _add(found, path.resolve().name, path, None)
            continue
        for run in training_runs(path):
            for name, folder in run.outputs["saes"].items():
                _add(found, name, run.path / folder, run)
    _check_site(list(found.values()))
    return {name: one for name, one in found.items() if name not in (known or {})}


def _check_site(dictionaries: Sequence[Dictionary]) -> None:
    """Refuse SAEs of different sites or widths."""
    for one in dictionaries[1:]:
        first = dictionaries[0]
        if one.sae.W_dec.shape[1] != first.sae.W_dec.shape[1]:
            widths = one.sae.W_dec.shape[1], first.sae.W_dec.shape[1]
            raise ValueError(
                f"{one.name} has decoder rows of width {widths[0]} and {first.name} of {widths[1]}; expected SAEs of "
                "one site: leave one out"
            )
        if one.site and first.site and one.site != first.site:
            raise ValueError(
                f"{one.name} is of {one.site} and {first.name} of {first.site}; expected SAEs of one site: leave one out"
            )


def _add(found: dict[str, Dictionary], name: str, folder: Path, run: FinishedRun | None) -> None:
    from matryo.sae.interop import load_foreign

    folder = folder.resolve()
    if any(one.folder == folder for one in found.values()):
        return
    base, count = name, 1
    while name in found:
        count += 1
        name = f"{base}-{count}"
    read = load_foreign(folder)
    told = read.metadata
    site = told.get("hook_name")
    where = f"{told['model_name']} {site}" if site and told.get("model_name") else site
    found[name] = Dictionary(name, folder, read.sae, where, run)
