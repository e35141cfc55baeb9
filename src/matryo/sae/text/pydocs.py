"""`pydocs`: English documentation and source of installed Python packages. Real text without a download.

What is read: the standard library, its documentation topics (`pydoc_data.topics`) and the packages of `PACKAGES`, all
of which are installed with matryo. Files are parsed as text with `ast`; no package is imported. A module
has two kinds of text: its docstrings, each under the name and signature of what it describes, and its source with the
docstrings and the leading comment (usually a licence) taken out. Both are cut into short documents; docstrings and
sources that occur more than once are used once.

The order makes any prefix a mixture of as many modules as possible. Packages take turns by the number of characters
they gave, the modules of a package come in the order of the hashes of their names, and each gives one document before
any gives a second: documentation or source, so that source is about a quarter of each package. A document's group is
its module, its stratum the package and kind of text: a module is trained on, calibrated on or held out, and each of
these gets the same share of every package and kind. Packages are too few to be the unit: they differ by ten percent
in the number of latents they need, and a mean over a tenth of them, which is three, is nearly as uncertain as that.
`pydocs:package` holds whole packages out all the same.
"""

from __future__ import annotations

import ast
import gc
import importlib.metadata
import platform
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matryo.sae.text.documents import Document
from matryo.sae.text.python_modules import (
    Seen,
    cut_documents,
    find_docstrings,
    list_files,
    parse_module,
    strip_source,
)

# Distribution, import name, and its share of a prefix, larger for one of many modules. All have at least 60,000
# characters of docstrings.
PACKAGES: tuple[tuple[str, str, int], ...] = (
    ("python", "", 6),
    ("python-topics", "pydoc_data", 3),
    ("numpy", "numpy", 4),
    ("torch", "torch", 6),
    ("transformers", "transformers", 6),
    ("datasets", "datasets", 3),
    ("pandas", "pandas", 4),
    ("matplotlib", "matplotlib", 3),
    ("sympy", "sympy", 6),
    ("networkx", "networkx", 4),
    ("huggingface-hub", "huggingface_hub", 3),
    ("pyarrow", "pyarrow", 1),
    ("mpmath", "mpmath", 1),
    ("fsspec", "fsspec", 1),
    ("pillow", "PIL", 1),
    ("fonttools", "fontTools", 3),
    ("packaging", "packaging", 1),
    ("jinja2", "jinja2", 1),
    ("rich", "rich", 1),
    ("cyclopts", "cyclopts", 1),
    ("attrs", "attr", 1),
    ("pygments", "pygments", 3),
    ("pyparsing", "pyparsing", 1),
    ("setuptools", "setuptools", 2),
    ("click", "click", 1),
    ("anyio", "anyio", 1),
    ("urllib3", "urllib3", 1),
    ("python-dateutil", "dateutil", 1),
    ("filelock", "filelock", 1),
)

_MAX_PACKAGE = 2_000_000  # what the largest packages give, so that the whole is not mostly theirs
_DOCS_PER_SOURCE = 3


@dataclass(frozen=True)
class _Parts:
    """The documents of one module that are still to come."""

    documentation: deque[Document]
    source: deque[Document]


@dataclass(frozen=True)
class PydocsSource:
    """The packages of `PACKAGES` that are installed, as one source.

    Attributes:
        packages: distribution, import name and share of a prefix.
        whole_packages: make the package the unit of the split, not the module: no part has text of another's package.
    """

    packages: tuple[tuple[str, str, int], ...] = PACKAGES
    whole_packages: bool = False

    @property
    def spec(self) -> str:
        """`pydocs` or `pydocs:package`."""
        return "pydocs:package" if self.whole_packages else "pydocs"

    def documents(self) -> Iterator[Document]:
        """Documents of all packages, interleaved; the same every time with the same installed versions.

        Raises:
            ValueError: None of the packages is installed as readable source.
        """
        seen, pieces = Seen(), Seen()
        streams = {name: _package(name, module, seen) for name, module, _ in self.packages}
        share = {name: share for name, _, share in self.packages}
        given = dict.fromkeys(streams, 0)
        order = {name: index for index, name in enumerate(streams)}
        while streams:
            name = min(streams, key=lambda name: (given[name] / share[name], order[name]))
            document = next(streams[name], None)
            if document is None:
                del streams[name]
            elif pieces.first(document.text):
                given[name] += len(document.text)
                yield replace(document, group=name, stratum="") if self.whole_packages else document
                if given[name] >= _MAX_PACKAGE:
                    del streams[name]
        if not any(given.values()):
            raise ValueError("pydocs found no Python source to read; use another text, e.g. file:PATH")

    def describe(self) -> dict[str, Any]:
        """Versions of the packages (None if not installed); the text follows from them."""
        versions = {name: _version(name) for name, _, _ in self.packages}
        return {
            "kind": "pydocs",
            "split_unit": "package" if self.whole_packages else "module",
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


def _package(name: str, module: str, seen: Seen) -> Iterator[Document]:
    """A document of every module, then a second of every module, …; about a quarter of the characters is source."""
    turns = _topics(seen) if name == "python-topics" else _modules(name, module, seen)
    documentation = sources = 0
    while True:
        left: list[_Parts] = []
        given = False
        for parts in turns:
            if parts.source and (sources * _DOCS_PER_SOURCE < documentation):
                document = parts.source.popleft()
                sources += len(document.text)
            elif parts.documentation:
                document = parts.documentation.popleft()
                documentation += len(document.text)
            else:
                left.append(parts)  # source that is not due yet
                continue
            given = True
            yield document
            left.append(parts)
        if not given:
            return
        turns = iter(left)


def _modules(name: str, module: str, seen: Seen) -> Iterator[_Parts]:
    """The documents of every module of a package, in the order of the modules' hashes."""
    for prefix, path in list_files(module):
        # A tree is thousands of objects without a cycle: collections while it grows would take more time than all else.
        with _without_collector():
            parts = _read(name, prefix, path, seen)
        if parts is not None:
            yield parts


def _read(name: str, prefix: str, path: Path, seen: Seen) -> _Parts | None:
    text, tree = parse_module(path)
    if tree is None:
        return None
    source = strip_source(text, tree)
    pieces = {
        "docs": (find_docstrings(tree, prefix, seen), "\n\n"),
        "source": (source.split("\n\n\n") if seen.first(source) else (), "\n\n\n"),
    }
    found = {
        kind: deque(cut_documents(Document("", f"pydocs/{kind}/{prefix}", prefix, f"{name}/{kind}"), *cut))
        for kind, cut in pieces.items()
    }
    return _Parts(found["docs"], found["source"])


@contextmanager
def _without_collector() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _topics(seen: Seen) -> Iterator[_Parts]:
    """The chapters of the language reference that `help()` shows: `topics = {name: text}` in one module."""
    for prefix, path in list_files("pydoc_data"):
        _, tree = parse_module(path)
        for node in tree.body if tree is not None and prefix.endswith("/topics") else ():
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                for topic, text in ast.literal_eval(node.value).items():
                    if seen.first(text):
                        like = Document("", f"pydocs/topics/{topic}", f"python-topics/{topic}", "python-topics")
                        yield _Parts(deque(cut_documents(like, text.strip().split("\n\n"), "\n\n")), deque())
