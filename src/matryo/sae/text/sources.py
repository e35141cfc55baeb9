"""From a specification such as `pack:sotu` to a source of documents."""

from __future__ import annotations

from collections.abc import Callable

from matryo.sae.text.documents import Source
from matryo.sae.text.files import parse_file
from matryo.sae.text.hub import parse_hub
from matryo.sae.text.packs import PACKS, PackSource
from matryo.sae.text.pydocs import PydocsSource
from matryo.spine.errors import unknown

KINDS = ("file", "hf", "pack", "pydocs")


def open_source(spec: str, notify: Callable[[str], None] | None = None) -> Source:
    """The source named by `spec`. Nothing is read or fetched yet; a file must exist.

    Args:
        spec: `file:PATH[#field]`, `hf:NAME[:CONFIG][:SPLIT][#field]`, `pack:NAME`, `pydocs` or `pydocs:package`.
        notify: Called with one line before something is downloaded, which names its licence.

    Raises:
        ValueError: No such kind of source or no such pack (the nearest is offered), or a malformed specification.
        FileNotFoundError: The file or folder does not exist.
    """
    kind, _, rest = spec.partition(":")
    if kind == "file":
        source = parse_file(rest)
        source.files()  # a wrong path is better found before a model is loaded
        return source
    if kind == "hf":
        return parse_hub(rest)
    if kind == "pack":
        if rest not in PACKS:
            raise unknown("pack", rest, PACKS)
        return PackSource(PACKS[rest], notify)
    if spec in ("pydocs", "pydocs:package"):
        return PydocsSource(whole_packages=spec != "pydocs")
    if kind in PACKS:
        raise ValueError(f"unknown text source {spec!r}: did you mean 'pack:{kind}'?")
    if kind == "pydocs":
        raise ValueError(f"text source {spec!r}: expected pydocs, or pydocs:package to hold out whole packages")
    raise unknown("text source", kind, KINDS, "file:PATH, hf:NAME, pack:NAME or pydocs")
