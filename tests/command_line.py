"""Command lines typed in tests, and what they say."""

import shlex

from matryo import cli


def run(line, folder, monkeypatch, capsys):
    """Type `matryo LINE` in a folder: the exit code, and what was printed."""
    monkeypatch.chdir(folder)
    code = cli.run(shlex.split(line))
    return code, capsys.readouterr()


def error_of(said) -> str:
    """The one line of an error."""
    (line,) = [text for text in said.err.splitlines() if text.startswith("matryo: error:")]
    return line
