"""`pydocs`: English documentation and source of installed Python packages. Real text without a download.

What is read: the standard library, its documentation topics (`pydoc_data.topics`) and the packages of `PACKAGES`, all
of which `pip install matryo[sae]` brings along. Files are parsed as text with `ast`; no package is imported. A module
gives two documents: its docstrings, each under the name and signature of what it describes, and its source with the
docstrings and the leading comment (usually a licence) taken out. Source makes up about a quarter of each package.
Docstrings and sources that occur more than once are used once. Packages take turns by the number of characters they
gave, so that any prefix is a mixture; the files of a package come in the order of the hashes of their names. A
document's group is its package: the train/held-out split is by package.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matryo.sae.text.documents import Document

# Distribution, import name, and its share of a prefix. All have at least 60,000 characters of docstrings.
PACKAGES: tuple[tuple[str, str, int], ...] = (
    ("python", "", 4),
    ("python-topics", "pydoc_data", 4),
    ("numpy", "numpy", 2),
    ("torch", "torch", 2),
    ("transformers", "transformers", 2),
    ("datasets", "datasets", 2),
    ("pandas", "pandas", 2),
    ("matplotlib", "matplotlib", 2),
    ("sympy", "sympy", 2),
    ("networkx", "networkx", 2),
    ("huggingface-hub", "huggingface_hub", 2),
    ("pyarrow", "pyarrow", 1),
    ("mpmath", "mpmath", 1),
    ("fsspec", "fsspec", 1),
    ("pillow", "PIL", 1),
    ("fonttools", "fontTools", 1),
    ("packaging", "packaging", 1),
    ("jinja2", "jinja2", 1),
    ("rich", "rich", 1),
    ("cyclopts", "cyclopts", 1),
    ("attrs", "attr", 1),
    ("pygments", "pygments", 1),
    ("pyparsing", "pyparsing", 1),
    ("setuptools", "setuptools", 1),
    ("click", "click", 1),
    ("anyio", "anyio", 1),
    ("urllib3", "urllib3", 1),
    ("python-dateutil", "dateutil", 1),
    ("filelock", "filelock", 1),
)

_SKIPPED_FOLDERS = frozenset(
    (
        *("test", "tests", "testing", "idlelib", "idle_test", "lib2to3", "turtledemo", "pydoc_data", "ensurepip"),
        *("site-packages", "dist-packages", "_vendor", "_vendored", "vendored", "_distutils_hack", "__pycache__"),
    )
)
_MIN_DOCSTRING = 60  # shorter ones are mostly "Return the name."
_MIN_DOCUMENT = 400
_MAX_DOCUMENT = 2_000  # a longer module is cut, so that no package holds the floor for long
_MAX_PARTS = 3  # documents of one module and kind, for the same reason: many modules make a better sample than few
_MAX_FILE = 1_000_000  # larger files are generated tables
_MAX_PACKAGE = 2_000_000  # what the largest packages give, so that the whole is not mostly theirs
_DOCS_PER_SOURCE = 3


@dataclass
class _Seen:
    """Texts met so far, by hash."""

    hashes: set[bytes] = field(default_factory=set)

    def first(self, text: str) -> bool:
        """Whether this text is new; white space does not count."""
        digest = hashlib.sha256(" ".join(text.split()).encode()).digest()
        new = digest not in self.hashes
        self.hashes.add(digest)
        return new


@dataclass(frozen=True)
class PydocsSource:
    """The packages of `PACKAGES` that are installed, as one source."""

    packages: tuple[tuple[str, str, int], ...] = PACKAGES

    @property
    def spec(self) -> str:
        """`pydocs`."""
        return "pydocs"

    def documents(self) -> Iterator[Document]:
        """Documents of all packages, interleaved; the same every time with the same installed versions.

        Raises:
            ValueError: None of the packages is installed as readable source.
        """
        seen = _Seen()
        streams = {name: _package(name, module, seen) for name, module, _ in self.packages}
        share = {name: share for name, _, share in self.packages}
        given = dict.fromkeys(streams, 0)
        order = {name: index for index, name in enumerate(streams)}
        while streams:
            name = min(streams, key=lambda name: (given[name] / share[name], order[name]))
            document = next(streams[name], None)
            if document is None:
                del streams[name]
            else:
                given[name] += len(document.text)
                yield document
                if given[name] >= _MAX_PACKAGE:
                    del streams[name]
        if not any(given.values()):
            raise ValueError("pydocs found no Python source to read; use another text, e.g. file:PATH")

    def describe(self) -> dict[str, Any]:
        """Versions of the packages (None if not installed); the text follows from them."""
        versions = {name: _version(name) for name, _, _ in self.packages}
        return {
            "kind": "pydocs",
            "versions": versions,
            "licence": "each package's own; read in place, nothing is redistributed",
            "note": "docstrings, documentation topics and source of installed Python packages",
        }


def _version(name: str) -> str | None:
    if name in ("python", "python-topics"):
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str, module: str, seen: _Seen) -> Iterator[Document]:
    """Documents of one package, about three characters of documentation to one of source."""
    if name == "python-topics":
        yield from _topics(seen)
        return
    documentation = sources = 0
    for prefix, path in _files(module):
        text, tree = _parse(path)
        if tree is None:
            continue
        for document in _cut(f"pydocs/docs/{prefix}", name, list(_docstrings(tree, prefix, seen)), "\n\n"):
            documentation += len(document.text)
            yield document
        if sources * _DOCS_PER_SOURCE < documentation:
            source = _source(text, tree)
            if seen.first(source):
                for document in _cut(f"pydocs/source/{prefix}", name, source.split("\n\n\n"), "\n\n\n"):
                    sources += len(document.text)
                    yield document


def _files(module: str) -> Iterator[tuple[str, Path]]:
    """(`package/sub/module`, file) of a package's readable Python files, in hash order; none if not installed."""
    if module:
        found = importlib.util.find_spec(module)  # a top-level name: nothing is imported
        if found is None or not found.submodule_search_locations:
            return
        root = Path(next(iter(found.submodule_search_locations)))
    else:
        root = Path(sysconfig.get_path("stdlib"))
    prefix = module or "python"
    paths = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        for file in files:
            if file.endswith(".py"):
                path = Path(folder, file)
                paths[f"{prefix}/{path.relative_to(root).with_suffix('').as_posix()}"] = path
    for name in sorted(paths, key=lambda name: hashlib.sha256(name.encode()).digest()):
        yield name, paths[name]


def _parse(path: Path) -> tuple[str, ast.Module | None]:
    """The file's text and tree; no tree if it is unreadable, generated, or not Python of this version."""
    try:
        if path.stat().st_size > _MAX_FILE:
            return "", None
        text = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            return text, ast.parse(text)
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError, RecursionError):
        return "", None


def _docstrings(tree: ast.Module, prefix: str, seen: _Seen) -> Iterator[str]:
    """Docstrings of the module, its classes and functions, in order, each under its name and signature."""
    module = prefix.removeprefix("python/").replace("/", ".").removesuffix(".__init__")
    nodes: list[tuple[str, ast.AST]] = [(module, tree)]
    while nodes:
        name, node = nodes.pop(0)
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        text = (ast.get_docstring(node) or "").strip()
        if len(text) >= _MIN_DOCSTRING and _is_english(text) and seen.first(text):
            yield f"{_signature(name, node)}\n\n{text}"
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            named = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            nodes[:0] = [(f"{name}.{child.name}", child) for child in node.body if isinstance(child, named)]


def _signature(name: str, node: ast.AST) -> str:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return f"{name}({ast.unparse(node.args)})"
    return f"class {name}" if isinstance(node, ast.ClassDef) else f"module {name}"


def _is_english(text: str) -> bool:
    """Nearly all ASCII, and mostly letters and spaces: drops other scripts, tables and diagrams."""
    plain = sum(character.isascii() for character in text)
    words = sum(character.isalpha() or character.isspace() for character in text)
    return plain >= 0.97 * len(text) and words >= 0.6 * len(text)


def _source(text: str, tree: ast.Module) -> str:
    """The source without its docstrings and without the comment at its head."""
    lines: list[str | None] = list(text.splitlines())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            head = node.body[0]
            if not (isinstance(head, ast.Expr) and isinstance(head.value, ast.Constant)):
                continue
            if isinstance(head.value.value, str) and head.end_lineno is not None:
                lines[head.lineno - 1 : head.end_lineno] = [None] * (head.end_lineno - head.lineno + 1)
    start = 0
    while start < len(lines) and (lines[start] or "#").lstrip().startswith("#"):
        start += 1
    return "\n".join(line for line in lines[start:] if line is not None).strip("\n")


def _topics(seen: _Seen) -> Iterator[Document]:
    """The chapters of the language reference that `help()` shows: `topics = {name: text}` in one module."""
    for prefix, path in _files("pydoc_data"):
        _, tree = _parse(path)
        for node in tree.body if tree is not None and prefix.endswith("/topics") else ():
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                for topic, text in ast.literal_eval(node.value).items():
                    if seen.first(text):
                        paragraphs = text.strip().split("\n\n")
                        yield from _cut(f"pydocs/topics/{topic}", "python-topics", paragraphs, "\n\n")


def _cut(name: str, group: str, pieces: list[str], joint: str) -> Iterator[Document]:
    """Up to `_MAX_PARTS` documents of about `_MAX_DOCUMENT` characters; one that is too short is dropped."""
    part: list[str] = []
    n_parts = n_chars = 0
    for piece in [*pieces, None]:
        if n_parts == _MAX_PARTS:
            return
        if part and (piece is None or n_chars + len(piece) > _MAX_DOCUMENT):
            text = joint.join(part)
            n_parts += 1
            if len(text) >= _MIN_DOCUMENT:
                yield Document(text, name if n_parts == 1 else f"{name}#{n_parts}", group)
            part, n_chars = [], 0
        if piece is not None:
            part.append(piece)
            n_chars += len(piece)
