"""`pydocs`: what is taken from a file, and that the installed packages give enough varied text."""

import ast
import collections
import itertools
import subprocess
import sys
import textwrap

import pytest

from matryo.sae.text import PydocsSource, RowsConfig, open_source, pack_rows
from matryo.sae.text.pydocs import PACKAGES, _cut, _docstrings, _files, _Seen, _source

MODULE = textwrap.dedent(
    '''\
    # Copyright of somebody.
    # All rights.

    """The module's docstring, which is long enough to be taken into account here."""
    import os

    # a comment that stays


    class Outer(dict):
        """A class with a docstring that is long enough to be taken into account here."""

        async def method(self, a: int, *rest, flag=True):
            """A method with a docstring long enough to be taken into account; it returns nothing."""
            return os.sep

        def short(self):
            """Too short."""
            return 1


    def twin(b):
        """A method with a docstring long enough to be taken into account; it returns nothing."""


    def grüße():
        """これは日本語のドキュメントです。これは日本語のドキュメントです。これは日本語のドキュメントです。これは日本語です。"""
    '''
)


def test_docstrings_come_with_name_and_signature_once_each():
    found = list(_docstrings(ast.parse(MODULE), "pack/sub/__init__", _Seen()))
    assert [text.split("\n")[0] for text in found] == [
        "module pack.sub",
        "class pack.sub.Outer",
        "pack.sub.Outer.method(self, a: int, *rest, flag=True)",
    ]
    assert found[2].endswith("it returns nothing.")


def test_source_is_without_docstrings_and_head():
    source = _source(MODULE, ast.parse(MODULE))
    assert source.startswith("import os") and "# a comment that stays" in source
    assert '"""' not in source and "Copyright" not in source
    assert "return os.sep" in source and "async def method" in source


def test_long_modules_are_cut_between_pieces(monkeypatch):
    monkeypatch.setattr("matryo.sae.text.pydocs._MAX_DOCUMENT", 1_000)
    pieces = [f"{index:03d} " * 75 for index in range(9)]
    documents = list(_cut("pydocs/docs/a", "a", pieces, "\n\n"))
    assert "\n\n".join(document.text for document in documents) == "\n\n".join(pieces)
    assert [document.name for document in documents] == ["pydocs/docs/a", "pydocs/docs/a#2", "pydocs/docs/a#3"]


def test_packages_are_not_imported_and_torch_is_not_needed():
    code = (
        "import sys, itertools; from matryo.sae.text import open_source;"
        "list(itertools.islice(open_source('pydocs').documents(), 60));"
        "print(sorted({'torch', 'transformers', 'pandas', 'pyarrow', 'sympy', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_beginning_is_a_mixture_and_is_repeatable():
    def beginning():
        return list(itertools.islice(open_source("pydocs").documents(), 150))

    documents = beginning()
    assert documents == beginning()
    characters = collections.Counter()
    for document in documents:
        characters[document.group] += len(document.text)
    total = sum(characters.values())
    assert len(characters) >= 20 and max(characters.values()) < 0.2 * total
    kinds = collections.Counter(document.name.split("/")[1] for document in documents)
    assert set(kinds) == {"docs", "source", "topics"} and kinds["source"] < kinds["docs"]
    assert all(document.text.strip() for document in documents)


@pytest.mark.slow
def test_there_are_six_million_characters_of_distinct_text():
    names, n_chars, blocks = set(), 0, collections.Counter()
    for document in open_source("pydocs").documents():
        assert document.name not in names
        names.add(document.name)
        n_chars += len(document.text)
        blocks[" ".join(document.text.split())] += 1
        if n_chars > 6_000_000:
            break
    assert n_chars > 6_000_000
    assert max(blocks.values()) == 1


def test_the_split_is_by_package():
    def encode(texts):
        return [list(text.encode()) for text in texts]

    rows = pack_rows([PydocsSource()], encode, 0, RowsConfig(row_length=65, max_tokens=300_000))
    # name: pydocs/KIND/PACKAGE/...; the topics' package is their kind
    package = {part: {tuple(name.split("/"))[1:3] for name in rows[part].names} for part in rows}
    modules = {part: {name if kind != "topics" else kind for kind, name in package[part]} for part in rows}
    assert rows["train"].split_by == "group" and len(modules["heldout"]) >= 2
    assert not modules["train"] & modules["heldout"]
    assert rows["heldout"].n_tokens >= 0.09 * rows["train"].n_tokens


def test_versions_are_recorded_and_missing_packages_are_told():
    versions = open_source("pydocs").describe()["versions"]
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["torch"].startswith("2.") and set(versions) == {name for name, _, _ in PACKAGES}
    nothing = PydocsSource((("no-such-package", "no_such_package", 1),))
    assert nothing.describe()["versions"] == {"no-such-package": None}
    with pytest.raises(ValueError, match="pydocs found no Python source"):
        list(nothing.documents())


def test_tests_and_vendored_copies_are_left_out():
    names = [name for name, _ in _files("setuptools")]
    assert any(name.startswith("setuptools/command") for name in names)
    assert not any("/_vendor/" in name or "/tests/" in name for name in names)
