"""Python files as text: which files a package has, their docstrings, their source, and both cut into documents.

Files are parsed with `ast`; nothing is imported.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import itertools
import os
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from matryo.sae.text.documents import Document

_SKIPPED_FOLDERS = frozenset(
    (
        *("test", "tests", "testing", "idlelib", "idle_test", "lib2to3", "turtledemo", "pydoc_data", "ensurepip"),
        *("site-packages", "dist-packages", "_vendor", "_vendored", "vendored", "_distutils_hack", "__pycache__"),
    )
)
_MIN_DOCSTRING = 60  # shorter ones are mostly "Return the name."
# Short documents of many modules make a better sample than long ones of few: tokens of one document need about the same
# number of latents, so that a mean over 50,000 tokens is as good as the number of documents they come from.
_MIN_DOCUMENT, _MAX_DOCUMENT = 300, 600
_MAX_PARTS = 10  # documents of one module and kind
_MAX_FILE = 1_000_000  # larger files are generated tables


@dataclass
class Seen:
    """Texts met so far, by hash."""

    hashes: set[bytes] = field(default_factory=set)

    def first(self, text: str) -> bool:
        """Whether this text is new; white space does not count."""
        digest = hashlib.sha256(" ".join(text.split()).encode()).digest()
        new = digest not in self.hashes
        self.hashes.add(digest)
        return new


def list_files(module: str) -> Iterator[tuple[str, Path]]:
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


def parse_module(path: Path) -> tuple[str, ast.Module | None]:
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


def find_docstrings(tree: ast.Module, prefix: str, seen: Seen) -> Iterator[str]:
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
    words = sum(character.isalpha() or character.isspace() for character in text)
    return _is_ascii(text) and words >= 0.6 * len(text)


def _is_ascii(text: str) -> bool:
    """At least 97 %: one generated table of other scripts gives more tokens than ten documents, all unlike any text."""
    return sum(character.isascii() for character in text) >= 0.97 * len(text)


def strip_source(text: str, tree: ast.Module) -> str:
    """The source without its docstrings and without the comment at its head."""
    lines: list[str | None] = list(text.splitlines())
    for node in _statements(tree):
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


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """The module and every statement in it, in any order: `ast.walk` less the expressions, ten times faster."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting.extend(getattr(node, name, ()))


def cut_documents(like: Document, pieces: Iterable[str], joint: str) -> Iterator[Document]:
    """Up to `_MAX_PARTS` documents like one, of about `_MAX_DOCUMENT` characters at most, short ones left out."""
    part: list[str] = []
    n_parts = n_chars = 0
    # Read no further than the last document: pieces are found while they are asked for.
    for piece in itertools.chain(itertools.chain.from_iterable(map(divide, pieces)), (None,)):
        if n_parts == _MAX_PARTS:
            return
        if part and (piece is None or n_chars + len(piece) > _MAX_DOCUMENT):
            text = joint.join(part)
            n_parts += 1
            if len(text) >= _MIN_DOCUMENT and _is_ascii(text):
                yield replace(like, text=text, name=like.name if n_parts == 1 else f"{like.name}#{n_parts}")
            part, n_chars = [], 0
        if piece is not None:
            part.append(piece)
            n_chars += len(piece)


def divide(piece: str) -> Iterator[str]:
    """A long piece, cut where a paragraph ends, else a line, else a word."""
    while len(piece) > _MAX_DOCUMENT:
        ends = (piece.rfind(mark, _MIN_DOCUMENT, _MAX_DOCUMENT) for mark in ("\n\n", "\n", " "))
        end = next((end for end in ends if end > 0), _MAX_DOCUMENT)
        yield piece[:end]
        piece = piece[end:].strip("\n")
    if piece:
        yield piece
