"""Where an SAE is, and whose it is: a local folder or file, or a repository of the Hugging Face hub."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from matryo.sae.interop.foreign import Foreign

READERS = {
    "sae_weights.safetensors": "saelens",
    "sae.safetensors": "sparsify",
    "ae.pt": "dictionary_learning",
    "sae.pt": "authors",
    "params.npz": "gemma_scope",
}
"""The file that holds a format's weights → the module that reads it."""

_BESIDE = ("cfg.json", "config.json")


def load_foreign(source: str | Path) -> Foreign:
    """Read an SAE of any known format.

    Args:
        source: a folder, a weight file in one, or `hf:OWNER/REPO[:SUBFOLDER]`.

    Raises:
        ValueError: there is no SAE, there are several, or this one cannot be held exactly; in one line.
        OSError: nothing is there, or the hub cannot be reached.
    """
    weights = locate(source)
    return importlib.import_module(f"matryo.sae.interop.{READERS[weights.name]}").read(weights)


def locate(source: str | Path) -> Path:
    """The weight file of the SAE at a source; its name tells the format. Downloads what the hub has."""
    text = str(source)
    place = _download(text.removeprefix("hf:")) if text.startswith("hf:") else Path(text).expanduser()
    if place.is_file():
        if place.name in READERS:
            return place
        raise ValueError(f"{place} is no SAE's weights; expected a folder, or one of {', '.join(READERS)}")
    if not place.is_dir():
        raise FileNotFoundError(f"{text} does not exist; expected an SAE folder, or hf:OWNER/REPO[:SUBFOLDER]")
    found = [place / name for name in READERS if (place / name).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{text} holds {', '.join(p.name for p in found)}; expected one SAE: name the file")
    below = sorted({str(path.parent.relative_to(place)) for name in READERS for path in place.rglob(name)})
    if below:
        raise ValueError(f"{text} is no SAE but holds some: {_listed(below)}; name one of these folders")
    pickles = [path.name for path in place.iterdir() if path.suffix in (".pt", ".pth", ".bin", ".pkl")]
    fact = f"; {pickles[0]} may be a pickle of anything and is not opened" if pickles else ""
    raise ValueError(f"{text} holds no SAE: expected one of {', '.join(READERS)}{fact}")


def _download(name: str) -> Path:
    """The folder of `OWNER/REPO[:SUBFOLDER]` in the hub's cache, with the SAE's own files and no others."""
    repository, _, inside = name.partition(":")
    inside = inside.strip("/")
    if repository.count("/") != 1 or ".." in inside.split("/"):
        raise ValueError(
            f"hf:{name}: expected hf:OWNER/REPO[:SUBFOLDER], such as hf:EleutherAI/sae-pythia-70m-32k:layers.3"
        )
    import huggingface_hub

    prefix = f"{inside}/" if inside else ""
    wanted = [prefix + file for file in (*READERS, *_BESIDE)]
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=wanted)) / inside
        if folder.is_dir() and any((folder / file).is_file() for file in READERS):
            return folder
        files: Sequence[str] = huggingface_hub.HfApi().list_repo_files(repository)
    except Exception as error:  # its errors share no base class below Exception
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
        raise OSError(
            f"cannot fetch {repository!r} from the Hugging Face hub ({reason}): check name and network, or give a "
            "local folder"
        ) from error
    below = sorted({file.rpartition("/")[0] for file in files if file.rpartition("/")[2] in READERS})
    fix = f"it has {_listed(below)}" if below else f"it has none of {', '.join(READERS)}"
    raise ValueError(f"hf:{name} holds no SAE: {fix}; expected hf:OWNER/REPO:SUBFOLDER of one")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
