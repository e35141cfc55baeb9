"""Packs: the readers on small archives of the same layout, and the real archives where they can be had."""

import collections
import io
import json
import tarfile

import pytest

from matryo.sae.text import PACKS, PackSource, open_source
from matryo.sae.text.pack_readers import READERS, mail_text, read_members, untag, wordnet_synsets


def make_archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(name, path):
    return {document.name: document.text for document in READERS[name](path)}


def test_only_regular_members_are_read(tmp_path):
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("package/data/link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name in ("package/data/b.txt", "../outside.txt", "package/data/a.txt"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    assert list(read_members(path, lambda name: name.startswith("package/data"))) == [
        "package/data/a.txt",
        "package/data/b.txt",
    ]
    assert not (tmp_path.parent / "outside.txt").exists()


def test_sotu_and_moby_dick(tmp_path):
    speeches = {f"data/{year}_someone_x.json": {"year": year, "text": f" Speech of {year}. "} for year in (1790, 1901)}
    path = make_archive(tmp_path / "s.tgz", {**speeches, "data/1790_someone_x.txt": "no", "package.json": {}})
    assert read("sotu", path) == {"sotu/1790_someone_x": "Speech of 1790.", "sotu/1901_someone_x": "Speech of 1901."}

    chapters = {f"data/chapter_{number}.txt": f"CHAPTER {number}." for number in (10, 2, 1)}
    other = {
        "data/epilogue.txt": "END",
        "data/etymology.txt": "ET",
        "data/extracts.txt": "EX",
        "data/contents.txt": "no",
    }
    path = make_archive(tmp_path / "m.tgz", {**chapters, **other})
    assert list(read("moby-dick", path).values()) == ["ET", "EX", "CHAPTER 1.", "CHAPTER 2.", "CHAPTER 10.", "END"]


WORDNET = """\
  1 This software and database is being provided to you
00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 ~ 00002137 n 0000 ~ 04431553 n 0000 | that which is perceived
00002137 03 n 02 abstraction 0 abstract_entity 0 001 @ 00001740 n 0000 | a concept; "an example | with a bar"
"""
ADJECTIVES = "00003131 00 a 02 able(p) 0 fit 0 000 | having the skill\n"


def test_wordnet(tmp_path):
    path = make_archive(
        tmp_path / "w.tgz", {"dict/data.noun": WORDNET, "dict/data.adj": ADJECTIVES, "dict/index.noun": ""}
    )
    synsets = {synset.offset: synset for synset in wordnet_synsets(path)}
    assert synsets["00002137"].words == ("abstraction", "abstract entity") and synsets["00002137"].lexfile == 3
    assert synsets["00002137"].gloss == 'a concept; "an example | with a bar"'
    assert synsets["00003131"].words == ("able", "fit")
    assert read("wordnet", path) == {
        "wordnet/adj/00003131": "able, fit (adjective): having the skill",
        "wordnet/noun/00001740": "entity (noun): that which is perceived\n"
        'abstraction, abstract entity (noun): a concept; "an example | with a bar"',
    }


def test_brown(tmp_path):
    tagged = "\n\n\tThe/at jury/nn said/vbd ``/`` no/rb ,/, (/( 1/2/cd )/) ''/'' !/.\n\nIt/pps cost/vbd $4/nns ./.\n"
    members = {"cats.txt": "ca01 news\ncr09 humor\n", "ca01": tagged, "cr09": "Ha/uh ./.", "README": "x"}
    path = make_archive(tmp_path / "b.tgz", members)
    assert read("brown", path) == {
        "brown/news/ca01": 'The jury said "no, (1/2)"!\nIt cost $4.',
        "brown/humor/cr09": "Ha.",
    }
    assert untag("") == ""


def test_sentiment(tmp_path):
    rows = [{"text": "Good. ", "class": 1}, {"text": "Bad.", "class": 0}, {"text": "", "class": None}]
    path = make_archive(tmp_path / "t.tgz", {"test/fixtures/yelp.json": rows, "test/fixtures/corpus.js": "no"})
    assert read("sentiment", path) == {"sentiment/yelp/positive/0000": "Good.", "sentiment/yelp/negative/0001": "Bad."}


def test_spam(tmp_path):
    mail = "From: a@b.c\nSubject: Hello\n there\nContent-Type: text/plain\n\nBody\n\n\n\n\nend\n"
    members = {
        "data/spam-1/1.x.json": {"text": mail},
        "data/easy-ham-2/2.y.json": {"text": "Subject: S\n\nplain"},
        "data/spam-1/1.x.txt": "no",
        "data/file_list.json": {},
    }
    path = make_archive(tmp_path / "s.tgz", members)
    assert read("spam", path) == {
        "spam/spam/spam-1/1.x": "Hello there\n\nBody\n\nend",
        "spam/ham/easy-ham-2/2.y": "S\n\nplain",
    }
    markup = "Content-Type: text/html\n\n<html><style>p {}</style><p>Buy&nbsp;<b>now</b><!-- x --> &amp; here</html>"
    assert mail_text(markup).split() == ["Buy", "now", "&", "here"]


def test_every_pack_has_a_reader_and_a_full_record():
    assert set(READERS) == set(PACKS)
    for pack in PACKS.values():
        about = open_source(f"pack:{pack.name}").describe()
        assert about["kind"] == "pack" and len(about["sha256"]) == 64 and about["licence"] and about["version"]
        json.dumps(about)


FACTS = {  # documents, characters
    "sotu": (233, 10_759_787),
    "moby-dick": (138, 1_212_704),
    "wordnet": (3_683, 12_445_160),
    "brown": (500, 5_965_408),
    "sentiment": (3_000, 193_814),
    "spam": (6_046, 12_284_938),
}


@pytest.fixture(params=sorted(FACTS))
def pack(request):
    source = PackSource(PACKS[request.param])
    try:
        source.archive()
    except OSError as error:
        if f"expected {source.pack.sha256}" in str(error):
            raise  # another hash is a failure, not a missing network
        pytest.skip(f"not in the cache and not to be had: {error}")
    return source


def test_the_real_archive(pack):
    documents = list(pack.documents())
    assert (len(documents), sum(len(document.text) for document in documents)) == FACTS[pack.pack.name]
    assert len({document.name for document in documents}) == len(documents)
    assert all(document.text.strip() for document in documents)
    assert "icence" in pack.licence_text() or "icense" in pack.licence_text() or "redistribut" in pack.licence_text()
    if pack.pack.name == "wordnet":
        assert sum(1 for _ in wordnet_synsets(pack.archive())) == 117_791
    labels = collections.Counter(tuple(document.name.split("/")[1:-1]) for document in documents)
    if pack.pack.name == "sentiment":
        assert len(labels) == 6 and set(labels.values()) == {500}
    if pack.pack.name == "brown":
        assert len(labels) == 15
    if pack.pack.name == "spam":
        assert sum(count for label, count in labels.items() if label[0] == "spam") == 1_896
