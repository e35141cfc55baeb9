"""`pydocs`: what is taken from a file, and that the installed packages give enough varied text."""

import argparse
import ast
import inspect
import itertools
import subprocess
import sys
import textwrap
import typing
from collections import Counter

import pytest

from matryo.sae.text import Document, PydocsSource, RowsConfig, open_source, pack_rows
from matryo.sae.text.pydocs import PACKAGES
from matryo.sae.text.python_modules import (
    Seen,
    _statements,
    cut_documents,
    divide,
    find_docstrings,
    list_files,
    strip_source,
)

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
    found = list(find_docstrings(ast.parse(MODULE), "pack/sub/__init__", Seen()))
    assert [text.split("\n")[0] for text in found] == [
        "module pack.sub",
        "class pack.sub.Outer",
        "pack.sub.Outer.method(self, a: int, *rest, flag=True)",
    ]
    assert found[2].endswith("it returns nothing.")


def test_source_is_without_docstrings_and_head():
    source = strip_source(MODULE, ast.parse(MODULE))
    assert source.startswith("import os") and "# a comment that stays" in source
    assert '"""' not in source and "Copyright" not in source
    assert "return os.sep" in source and "async def method" in source


def test_statements_are_those_of_a_full_walk():
    for module in (ast, argparse, typing):
        tree = ast.parse(inspect.getsource(module))
        full = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        found = [node for node in _statements(tree) if isinstance(node, ast.stmt)]
        assert len(found) == len(full) > 500 and set(map(id, found)) == set(map(id, full))


def test_long_modules_are_cut_between_pieces():
    pieces = [f"{index:03d} " * 75 for index in range(9)]
    documents = list(cut_documents(Document("", "pydocs/docs/a", "a", "b"), pieces, "\n\n"))
    assert "\n\n".join(document.text for document in documents) == "\n\n".join(pieces)
    assert {(document.group, document.stratum) for document in documents} == {("a", "b")}
    assert [document.name for document in documents] == [
        "pydocs/docs/a",
        *(f"pydocs/docs/a#{part}" for part in (2, 3, 4, 5)),
    ]


def test_documents_of_other_scripts_are_left_out():
    pieces = [
        ("plain text " * 50)[:540],
        ("Ωμέγα λόγος " * 50)[:540],
        ("plain text, Ω, plain text, plain text " * 20)[:540],
    ]
    documents = list(cut_documents(Document("", "a", "a"), pieces, "\n\n\n"))
    assert [document.name for document in documents] == ["a", "a#3"]
    assert [document.text for document in documents] == [pieces[0], pieces[2]]


@pytest.mark.parametrize("joint", ["\n\n", "\n", " ", ""])
def test_a_long_piece_is_cut_where_a_paragraph_line_or_word_ends(joint):
    piece = joint.join(f"{index:04d}" * 20 for index in range(40))
    parts = list(divide(piece))
    assert max(map(len, parts)) <= 600 and min(map(len, parts[:-1])) >= 300
    assert "".join(parts).replace("\n", "").replace(" ", "") == "".join(f"{index:04d}" * 20 for index in range(40))
    if joint:
        assert all(len(part.strip()) % (80 + len(joint)) == 80 for part in parts)


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
    characters = Counter()
    for document in documents:
        characters[document.group] += len(document.text)
    total = sum(characters.values())
    assert len(characters) >= 20 and max(characters.values()) < 0.2 * total
    kinds = Counter(document.name.split("/")[1] for document in documents)
    assert set(kinds) == {"docs", "source", "topics"} and kinds["source"] < kinds["docs"]
    assert all(document.text.strip() for document in documents)


@pytest.mark.slow
def test_there_are_six_million_characters_of_distinct_text():
    names, n_chars, blocks = set(), 0, Counter()
    for document in open_source("pydocs").documents():
        assert document.name not in names
        names.add(document.name)
        n_chars += len(document.text)
        blocks[" ".join(document.text.split())] += 1
        if n_chars > 6_000_000:
            break
    assert n_chars > 6_000_000
    assert max(blocks.values()) == 1


def module_of(name):
    """`pydocs/docs/numpy/linalg#2` → `numpy/linalg`; a topic is a module of its own."""
    _, kind, rest = name.partition("#")[0].split("/", 2)
    return f"topics/{rest}" if kind == "topics" else rest


def test_modules_take_turns():
    package = PydocsSource((("filelock", "filelock", 1),))
    documents = list(package.documents())
    modules = [module_of(document.name) for document in documents]
    assert len(set(modules[:15])) == 15 < len(set(modules)) < len(modules)
    assert {document.stratum for document in documents} == {"filelock/docs", "filelock/source"}
    assert all(len(document.text) <= 610 for document in documents)


def test_the_split_is_by_module_and_takes_all_packages_alike():
    def encode(texts):
        return [list(text.encode()) for text in texts]

    config = RowsConfig(row_length=65, max_tokens=180_000, heldout_fraction=0.2, calibration_fraction=0.2)
    rows = pack_rows([PydocsSource()], encode, 0, config)
    modules = {part: {module_of(name) for name in found.names} for part, found in rows.items()}
    assert {found.split_by for found in rows.values()} == {"group"}
    assert sum(map(len, modules.values())) == len(set.union(*modules.values()))
    assert min(map(len, modules.values())) >= 50
    packages = {part: Counter(module.split("/")[0] for module in found) for part, found in modules.items()}
    assert len(packages["train"]) >= 25
    for part in ("heldout", "calibration"):
        share = {name: count / packages[part].total() for name, count in packages[part].items()}
        for name, count in packages["train"].items():
            assert share.get(name, 0) == pytest.approx(count / packages["train"].total(), abs=0.08)


def test_versions_are_recorded_and_missing_packages_are_told():
    versions = open_source("pydocs").describe()["versions"]
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["torch"].startswith("2.") and set(versions) == {name for name, _, _ in PACKAGES}
    nothing = PydocsSource((("no-such-package", "no_such_package", 1),))
    assert nothing.describe()["versions"] == {"no-such-package": None}
    with pytest.raises(ValueError, match="pydocs found no Python source"):
        list(nothing.documents())


def test_tests_and_vendored_copies_are_left_out():
    names = [name for name, _ in list_files("setuptools")]
    assert any(name.startswith("setuptools/command") for name in names)
    assert not any("/_vendor/" in name or "/tests/" in name for name in names)


def test_whole_packages_can_be_the_unit_of_the_split():
    modules, packages = open_source("pydocs"), open_source("pydocs:package")
    pairs = list(itertools.islice(zip(modules.documents(), packages.documents(), strict=True), 400))
    assert all(a.text == b.text and a.name == b.name for a, b in pairs)
    assert all((b.group, b.stratum) == (a.stratum.split("/")[0], "") for a, b in pairs)
    assert len({b.group for _, b in pairs}) > 20 and len({a.group for a, _ in pairs}) > 100
    told = [source.describe()["split_unit"] for source in (modules, packages)]
    assert told == ["module", "package"] and packages.spec == "pydocs:package"
