"""Docs that cannot drift: the generated page, examples in docstrings, commands in pages."""

import doctest
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from matryo import cli

ROOT = Path(__file__).parents[1]
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]
EXAMPLES = [path for path in sorted((ROOT / "src").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


def cli_page():
    spec = importlib.util.spec_from_file_location("cli_page", ROOT / "scripts" / "cli_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page()


def test_the_page_of_commands_is_up_to_date_and_has_them_all():
    page = cli_page()
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == page, "run python scripts/cli_page.py"
    for room in cli.ROOMS:
        for name in importlib.import_module(f"matryo.{room}.commands.room").COMMANDS:
            assert f"### matryo {room} {name}\n" in page


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_examples_in_docstrings_run(path):
    name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0


def typed(page):
    """The command lines in a page's code blocks."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:bash|sh|console|shell|text)?\n(.*?)^```", text, re.S | re.M)
    blocks += re.findall(r"(?:^ {4}.*\n)+", text, re.M)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        line = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
        if line.startswith("matryo ") and not re.match(r"matryo (ROOM|\w+ COMMAND)\b", line):
            yield line


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_command_lines_in_pages_parse(page, monkeypatch):
    monkeypatch.setattr(cli, "_config_file", None)
    for line in typed(page):
        tokens = cli.prepare(shlex.split(line, comments=True)[1:])
        cli.app.parse_args(tokens, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_targets_in_pages_exist(page):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    for target in re.findall(r"(?:^|`)(?:\s*\$ )?make ([a-z]+)", page.read_text(encoding="utf-8"), re.M):
        assert target in targets
