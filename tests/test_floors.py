"""The house's rules that a program can check: floors, budgets, names, and no pickle."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "matryo"
FILES = sorted(SOURCE.rglob("*.py"))
NAMES = [str(path.relative_to(SOURCE)) for path in FILES]

LONG_FILES: dict[str, str] = {}
"""Files of more than 300 lines, each with the reason it is not two files."""

each_file = pytest.mark.parametrize("path", FILES, ids=NAMES)


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree):
    """Every imported name as `module` or `module:name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}:{alias.name}" for alias in node.names)


def test_the_import_contracts_hold():
    call = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        call, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_spine_stays_thin():
    files = [path for path in (SOURCE / "spine").glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= 8
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= 900


@each_file
def test_files_are_short(path):
    length, name = len(path.read_text(encoding="utf-8").splitlines()), str(path.relative_to(SOURCE))
    assert length <= 400
    assert length <= 300 or LONG_FILES.get(name), "more than 300 lines: split it, or give the reason in LONG_FILES"
    assert length > 300 or name not in LONG_FILES, "no longer long: take it out of LONG_FILES"


@each_file
def test_functions_are_short(path):
    functions = [n for n in ast.walk(parsed(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [f"{f.name}: {f.end_lineno - f.lineno + 1}" for f in functions if f.end_lineno - f.lineno + 1 > 60]
    assert not long


@each_file
def test_names_say_something(path):
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "core", "manager", "misc"}


@each_file
def test_nobody_inside_imports_the_package_itself(path):
    packages = {p.name for p in SOURCE.iterdir() if p.is_dir()} | {p.stem for p in SOURCE.glob("*.py")}
    for name in imports(parsed(path)):
        assert name != "matryo"
        assert not name.startswith("matryo:") or name.removeprefix("matryo:") in packages - {"__init__"}


@each_file
def test_no_pickle_is_read(path):
    tree = parsed(path)
    readers = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not readers & {name.partition(":")[0].partition(".")[0] for name in imports(tree)}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        keywords = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
        assert keywords.get("allow_pickle") in (None, False)
        if ast.unparse(call.func) == "torch.load":
            assert "interop" in path.parts
            assert keywords.get("weights_only") is True


def test_the_front_door_names_rooms_and_imports_none():
    inside = [name for name in imports(parsed(SOURCE / "cli.py")) if name.startswith("matryo")]
    assert inside
    assert all(name.startswith("matryo.spine") for name in inside)
