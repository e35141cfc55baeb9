"""What a user names → SAEs. Every command that takes SAEs reads its arguments here. Imports no torch.

| named | SAEs |
|---|---|
| `RUN` | all of a finished run; of a run made from others, such as an evaluation, theirs |
| `RUN/saes/NAME` | that one of a run, with what the run knows of model, site and text |
| a folder, or the file of weights in it | the one, of any format that `interop` reads |
| `hf:OWNER/REPO[:SUBFOLDER]` | the one, downloaded |

`@LEVEL` behind any of them takes the first LEVEL latents, such as a Matryoshka prefix.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryo.spine.errors import unknown
from matryo.spine.run import FinishedRun, read_run

if TYPE_CHECKING:
    from matryo.sae.interop import Foreign
    from matryo.sae.nn import SAE

HUB = "hf:"
EXPECTED = "a run, RUN/saes/NAME, an SAE folder, or hf:OWNER/REPO[:SUBFOLDER]"


@dataclass(frozen=True)
class Place:
    """Where one SAE is, before it is read."""

    name: str
    at: str
    "Its folder, a file in it, or its name on the hub."
    run: FinishedRun | None = None
    "The run that it belongs to."
    level: int | None = None
    "How many of its first latents are meant; None for all."

    @property
    def key(self) -> str:
        """The same for the same SAE, however it was named."""
        return self.at + _behind(self.level)


@dataclass(frozen=True, eq=False)
class NamedSAE:
    """One SAE in eval mode, with what its files and its run tell of it."""

    name: str
    place: Place
    found: Foreign
    weights: Path
    "The file that its weights were read from."

    @property
    def sae(self) -> SAE:
        """The autoencoder."""
        return self.found.sae

    @property
    def metadata(self) -> dict[str, Any]:
        """SAELens' keys, as far as its files tell them."""
        return self.found.metadata

    @property
    def run(self) -> FinishedRun | None:
        """The run that it belongs to."""
        return self.place.run

    @property
    def site(self) -> str | None:
        """Model and site, as its files tell them; None where they do not."""
        site, model = self.metadata.get("hook_name"), self.metadata.get("model_name")
        return f"{model} {site}" if site and model else site

    @property
    def outputs(self) -> dict[str, Any]:
        """What its run says of model, site and text, with whole paths.

        Raises:
            ValueError: it belongs to no run.
        """
        if self.run is None:
            raise no_activations(self)
        return located(self.run.path, self.run.outputs)

    def prefix(self, level: int) -> NamedSAE:
        """The SAE of its first latents; a ValueError says that it has fewer, or cannot do without the others."""
        name = self.name.removesuffix(_behind(self.place.level)) + _behind(level)
        if level < len(self.sae.W_dec) and not getattr(self.sae, "by_threshold", True):
            raise ValueError(
                f"{name} is a prefix of a TopK SAE without levels, whose latents compete with all others for k places; "
                "expected an SAE with levels or of another kind: leave @ out"
            )
        found = replace(self.found, sae=self.sae.prefix(level).eval())
        return replace(self, name=name, place=replace(self.place, level=level), found=found)


def training_runs(path: Path) -> list[FinishedRun]:
    """The run with SAEs at a path, or those that the run there was made from, such as an evaluation's."""
    run = read_run(path)
    if "saes" in run.outputs:
        return [run]
    found = [made for parent in run.parents for made in training_runs(Path(parent))]
    if not found:
        raise ValueError(f"{run.path} is a run of `{run.command}`; expected one of `sae train`, or made from one")
    return found


def located(run: Path, outputs: dict[str, Any]) -> dict[str, Any]:
    """A run's outputs with the places of its rows and store, which are told relative to it, made whole."""
    told = {key: outputs.get(key) for key in ("rows", "store")}
    return outputs | {key: place and os.path.normpath(run.resolve() / place) for key, place in told.items()}


def find_saes(source: str | Path) -> list[Place]:
    """Where the SAEs are that a source names.

    Raises:
        ValueError: it is neither a finished run nor an SAE.
        OSError: nothing is there.
    """
    text, level = _level(str(source))
    if text.startswith(HUB):
        return [Place(_plain("-".join(re.split(r"[:/]", text.removeprefix(HUB).strip("/")))), text, level=level)]
    given = Path(text).expanduser()
    if not given.exists():
        raise _absent(given, text)
    if not is_run(given):
        return [replace(_single(_whole(given), text), level=level)]
    return [
        Place(name, str((run.path / inside).resolve()), run, level)
        for run in training_runs(given)
        for name, inside in run.outputs["saes"].items()
    ]


def read_saes(sources: Iterable[str | Path], known: Sequence[NamedSAE] = ()) -> list[NamedSAE]:
    """Read the SAEs that some sources name, each once, under names of their own.

    Args:
        sources: as in the table above.
        known: SAEs read before: they are left out, and their names are taken.

    Raises:
        ValueError: a source names none, or one that cannot be read; the prefix is longer than the SAE.
        OSError: nothing is there, or the hub cannot be reached.
    """
    places = {place.key: place for source in sources for place in find_saes(source)}
    read = [_read(place) for key, place in places.items() if key not in {one.place.key for one in known}]
    return distinct(read, [one.name for one in known])


def one_sae(source: str | Path) -> NamedSAE:
    """The one SAE that a source names.

    Raises:
        ValueError: it names several; how to name one is said.
    """
    places = find_saes(source)
    if len(places) > 1:
        names = ", ".join(place.name for place in places)
        raise ValueError(f"{source} has {len(places)} SAEs; expected one, as {source}/saes/NAME: {names}")
    return _read(places[0])


def runs_of(saes: Iterable[NamedSAE]) -> list[Path]:
    """The runs that SAEs belong to, each once."""
    return list(dict.fromkeys(one.run.path for one in saes if one.run))


def sources_of(saes: Sequence[NamedSAE], whole: bool = False) -> list[str]:
    """What names these SAEs: RUN where all of a run are among them, else each one; with whole paths or as in a page."""
    keys, told = {one.place.key for one in saes}, []
    for one in saes:
        source, run = one.place.key, one.run
        if run and one.place.level is None:
            every = all(str((run.path / inside).resolve()) in keys for inside in run.outputs["saes"].values())
            source = str(run.path) if every else source
        told.append(os.path.relpath(source, run.path.parent) if run and not whole else source)
    return list(dict.fromkeys(told))


def settled(source: str | Path) -> str:
    """A source by its whole path, for a config that is read again: `runs/latest` is that run itself in a moment."""
    text, level = _level(str(source))
    given = Path(text).expanduser()
    return str(source) if text.startswith(HUB) or not given.exists() else str(_whole(given)) + _behind(level)


def distinct(saes: Sequence[NamedSAE], taken: Iterable[str] = ()) -> list[NamedSAE]:
    """SAEs under names of their own: where two have one, that of the run or folder they are in stands before it."""
    used = set(taken)
    counts, found = Counter(one.name for one in saes) + Counter(used), []
    for one in saes:
        name = one.name
        if counts[name] > 1:
            above = one.run.path if one.run else one.weights.parent.parent
            name = _plain(f"{above.name}-{name}")
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        free = next(each for each in itertools.chain([name], numbered) if each not in used)
        used.add(free)
        found.append(replace(one, name=free))
    return found


def no_activations(one: NamedSAE | Place, fix: str = "matryo sae adopt makes one") -> ValueError:
    """Build the error for an SAE that something is to be measured of, and there is nothing to measure it on."""
    why = "" if one.run else ", as it belongs to no run"
    return ValueError(f"no activations of {one.name} are at hand{why}; expected an SAE of a run: {fix}")


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, finished or not."""
    return any((folder / name).is_file() for name in ("run.json", "environment.json"))


def _read(place: Place) -> NamedSAE:
    from matryo.sae.interop import load_foreign, locate

    weights = locate(place.at)
    one = NamedSAE(place.name, replace(place, level=None), load_foreign(weights), weights)
    return one if place.level is None else one.prefix(place.level)


def _single(place: Path, text: str) -> Place:
    """The SAE of a folder or file, of the finished run whose `saes` names it."""
    from matryo.sae.interop import locate

    try:
        weights = locate(place)
    except ValueError as error:
        raise ValueError(f"{text} is no run folder, and {error}") from None
    folder = weights.parent
    for above in itertools.islice(folder.parents, 2):
        if (above / "run.json").is_file():
            run = read_run(above)
            for name, inside in run.outputs.get("saes", {}).items():
                if (run.path / inside).resolve() == folder:
                    return Place(name, str(folder), run)
    return Place(_plain(folder.name), str(weights))


def _absent(given: Path, text: str) -> Exception:
    """That nothing is there; of a run, what its SAEs are called."""
    run = given.parents[1] if given.parent.name == "saes" else given.parent
    if (run / "run.json").is_file() and (saes := read_run(run).outputs.get("saes")):
        if given.name in saes:
            return FileNotFoundError(f"{text} does not exist; expected {run / saes[given.name]}")
        return unknown("SAE", given.name, saes, fix=f"as {run}/saes/NAME")
    return FileNotFoundError(f"{text} does not exist; expected {EXPECTED}")


def _level(source: str) -> tuple[str, int | None]:
    text, at, level = source.rpartition("@")
    return (text, int(level)) if at and level.isdigit() and not Path(source).exists() else (source, None)


def _whole(given: Path) -> Path:
    # A file may be a link into the hub's cache, where names tell nothing.
    return given.resolve() if given.is_dir() else given.parent.resolve() / given.name


def _behind(level: int | None) -> str:
    return "" if level is None else f"@{level}"


def _plain(name: str) -> str:
    """As a file name."""
    return re.sub(r"[^A-Za-z0-9._@-]+", "-", name).strip("-.") or "sae"
