"""`file:` and `hf:`: what is read, in which order, and what is said of bad input."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from matryo.sae.text import Document, open_source
from matryo.spine.fetch import file_sha256


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def texts(spec):
    return [document.text for document in open_source(spec).documents()]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("\ufeffAh, ça! é\n", encoding="utf-8")
    (tmp_path / "b" / "c.md").write_text("# Title\n\nBody\n", encoding="utf-8")
    write_lines(
        tmp_path / "b" / "rows.jsonl", [{"text": "one", "n": 1}, {"text": None}, {"text": " "}, {"text": "two"}]
    )
    pq.write_table(pa.table({"text": ["three", "four"], "other": [1, 2]}), tmp_path / "z.parquet")
    (tmp_path / "ignored.csv").write_text("x,y\n")
    return tmp_path


def test_folder_is_read_in_the_order_of_paths(folder):
    source = open_source(f"file:{folder}")
    expected = [
        Document("Ah, ça! é\n", "a.txt", "a.txt"),
        Document("# Title\n\nBody\n", "b/c.md", "b/c.md"),
        Document("one", "b/rows.jsonl:1", "b/rows.jsonl:1"),
        Document("two", "b/rows.jsonl:4", "b/rows.jsonl:4"),
        Document("three", "z.parquet:1", "z.parquet:1"),
        Document("four", "z.parquet:2", "z.parquet:2"),
    ]
    assert list(source.documents()) == expected
    assert list(source.documents()) == expected  # again from the start


def test_description_follows_the_contents(folder):
    source = open_source(f"file:{folder}")
    before = source.describe()
    assert before["files"] == 4 and before["kind"] == "file"
    (folder / "a.txt").write_text("other", encoding="utf-8")
    after = source.describe()
    assert {key for key in before if before[key] != after[key]} == {"bytes", "sha256"}
    json.dumps(after)


def test_field_is_chosen_and_a_path_may_contain_the_mark(tmp_path):
    write_lines(tmp_path / "d.jsonl", [{"text": "no", "body": "yes"}])
    assert texts(f"file:{tmp_path}/d.jsonl#body") == ["yes"]
    pq.write_table(pa.table({"text": ["no"], "body": ["yes"]}), tmp_path / "d.parquet")
    assert texts(f"file:{tmp_path}/d.parquet#body") == ["yes"]
    (tmp_path / "a#b.txt").write_text("here")
    source = open_source(f"file:{tmp_path}/a#b.txt")
    assert [document.text for document in source.documents()] == ["here"]
    assert open_source(source.spec) == source


def test_a_long_text_comes_in_pieces_of_one_group(tmp_path, monkeypatch):
    monkeypatch.setattr("matryo.sae.text.files._CHUNK_CHARS", 50)
    text = "".join(f"line {number} of the text\n" for number in range(20))
    (tmp_path / "long.txt").write_text(text)
    documents = list(open_source(f"file:{tmp_path}/long.txt").documents())
    assert "".join(document.text for document in documents) == text and len(documents) > 5
    assert {document.group for document in documents} == {"long.txt"}
    assert len({document.name for document in documents}) == len(documents)


def test_bad_files(tmp_path):
    def refused(name, kind, message):
        with pytest.raises(kind, match=message) as caught:
            texts(f"file:{tmp_path}/{name}")
        assert "\n" not in str(caught.value)

    refused("missing.txt", FileNotFoundError, "no file or folder .*missing.txt")
    (tmp_path / "empty").mkdir()
    refused("empty", FileNotFoundError, "holds no text: expected files ending in .txt")
    (tmp_path / "a.csv").write_text("x")
    refused("a.csv", ValueError, "unknown kind of text file 'a.csv'")
    (tmp_path / "blank.txt").write_text(" \n\n")
    refused("blank.txt", ValueError, "blank.txt holds no text")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    refused("latin.txt", ValueError, "latin.txt is not UTF-8 text")
    write_lines(tmp_path / "rows.jsonl", [{"text": "a"}, {"txet": "b"}])
    refused("rows.jsonl#text", ValueError, "unknown field 'text': did you mean 'txet'.*line 2")
    refused("rows.jsonl#", ValueError, "expected a field after '#'")
    write_lines(tmp_path / "number.jsonl", [{"text": 3}])
    refused("number.jsonl", ValueError, "line 1: field 'text' is int, expected text")
    write_lines(tmp_path / "list.jsonl", [["a"]])
    refused("list.jsonl", ValueError, "line 1 is list: expected a JSON object")
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": ')
    refused("broken.jsonl", ValueError, "line 2 is not JSON")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1....")
    refused("broken.parquet", ValueError, "is not a complete Parquet file")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "d.parquet")
    refused("d.parquet", ValueError, "unknown field 'text'")
    with pytest.raises(ValueError, match="expected a path after the colon"):
        open_source("file:")


@pytest.mark.parametrize(
    ("spec", "config", "split", "field"),
    [
        ("hf:a/b", None, "train", "text"),
        ("hf:a/b:test", None, "test", "text"),
        ("hf:a/b:english", "english", "train", "text"),
        ("hf:a/b:english:dev", "english", "dev", "text"),
        ("hf:a/b::unsupervised#body", None, "unsupervised", "body"),
    ],
)
def test_hub_specifications(spec, config, split, field):
    source = open_source(spec)
    assert (source.name, source.config, source.split, source.field) == ("a/b", config, split, field)
    assert open_source(source.spec) == source


def test_hub_reads_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    data = tmp_path / "data"
    data.mkdir()
    write_lines(data / "train.jsonl", [{"text": f"train {index}", "body": "b"} for index in range(3)])
    write_lines(data / "test.jsonl", [{"text": "held"}, {"text": ""}])
    assert texts(f"hf:{data}") == ["train 0", "train 1", "train 2"]
    assert texts(f"hf:{data}:test") == ["held"]
    assert texts(f"hf:{data}#body") == ["b", "b", "b"]
    source = open_source(f"hf:{data}:test")
    assert [document.name for document in source.documents()] == ["data/test/0"]
    assert source.describe()["split"] == "test"
    with pytest.raises(ValueError, match="unknown field 'tetx': did you mean 'text'"):
        texts(f"hf:{data}#tetx")
    with pytest.raises(OSError, match=r"cannot open data set .*(split|dev)") as caught:
        texts(f"hf:{data}:dev")
    assert "\n" not in str(caught.value)


def test_hub_offline_or_unknown_is_one_line(monkeypatch):
    with pytest.raises(OSError, match="cannot open data set 'no/such-thing' of the Hugging Face hub") as caught:
        texts("hf:no/such-thing")
    assert "\n" not in str(caught.value) and "pydocs" in str(caught.value)
    with pytest.raises(ValueError, match=re.escape("expected hf:NAME[:CONFIG]")):
        open_source("hf:a:b:c:d")


def test_unknown_sources_offer_the_nearest():
    with pytest.raises(ValueError, match="unknown text source 'pydoc': did you mean 'pydocs'"):
        open_source("pydoc")
    with pytest.raises(ValueError, match="unknown pack 'mobydick': did you mean 'moby-dick'"):
        open_source("pack:mobydick")
    with pytest.raises(ValueError, match="did you mean 'pack:sotu'"):
        open_source("sotu")
    with pytest.raises(ValueError, match="text source 'pydocs:x': expected pydocs, or pydocs:package"):
        open_source("pydocs:x")


def test_hashes_are_those_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
