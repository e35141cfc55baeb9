"""Every example of every command, run for real, in one folder, in the order a newcomer would type them.

An example that needs a download says so in a comment, "# downloads ...", and is not run here.
"""

import shlex
from importlib import import_module

import pytest

from matryo import cli

COMMANDS = [(room, name) for room in cli.ROOMS for name in import_module(f"matryo.{room}.commands.room").COMMANDS]


def lines():
    for room, command in COMMANDS:
        for line in cli.examples(cli.find([room, command])):
            yield pytest.param(line, marks=pytest.mark.skip("downloads")) if "# downloads" in line else line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tour")


@pytest.mark.parametrize("line", list(lines()))
def test_example_runs(line, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert cli.run(shlex.split(line, comments=True)[1:]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip(), "a command ends by saying what it made, and where"


@pytest.mark.parametrize(("room", "command"), COMMANDS)
def test_every_command_has_an_example_that_needs_no_download(room, command):
    assert any("# downloads" not in line for line in cli.examples(cli.find([room, command])))
