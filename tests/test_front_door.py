"""The front door: help, flags of every command, layering of values, and errors in one line."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import pytest
from cyclopts import App, Parameter

from matryo import cli
from matryo.spine import progress
from matryo.spine.errors import check_space

HEAVY = ("torch", "transformers", "datasets", "matplotlib", "pyarrow", "safetensors", "tokenizers", "rich.progress")
HEAVY = (*HEAVY, "pandas", "numba", "scipy", "sklearn", "statsmodels", "shap", "xarray", "dask")
COMMANDS = {room: import_module(f"matryo.{room}.commands.room").COMMANDS for room in cli.ROOMS}
each_command = pytest.mark.parametrize(("room", "command"), [(r, c) for r, names in COMMANDS.items() for c in names])
ROOM_HEAVY = (*HEAVY, "numpy", "jinja2", "matryo.sae.recipes", "matryo.spine.run")


def matryo(*arguments, **environment):
    call = [sys.executable, "-W", "error", "-m", "matryo", *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def imported_by(*arguments):
    """Run a command line in a new process; return what it printed and the modules it imported."""
    code = (
        "import sys, json; from matryo.cli import run; code = run(sys.argv[1:]);"
        "print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0
    return done.stdout, modules


# --- help


@pytest.mark.parametrize("arguments", [["--help"], *([r, "--help"] for r in COMMANDS), ["sae"], ["--version"]])
def test_help_of_house_and_room_imports_neither_torch_nor_a_command(arguments):
    shown, modules = imported_by(*arguments)
    assert not set(ROOM_HEAVY) & set(modules)
    assert not [m for m in modules if re.match(r"matryo\.\w+\.commands\.", m) and not m.endswith(".room")]
    for room in set(arguments) & set(COMMANDS):
        assert all(name in shown and line.split()[0] in shown for name, line in COMMANDS[room].items())


HELP_OF_ALL = """
import contextlib, io, json, sys
from matryo.cli import run
for words in json.loads(sys.argv[1]):
    before, shown = set(sys.modules), io.StringIO()
    with contextlib.redirect_stdout(shown):
        code = run([*words, "--help"])
    print(json.dumps([words, code, shown.getvalue(), sorted(set(sys.modules) - before)]))
"""


@pytest.fixture(scope="module")
def helps():
    """By command its help and the modules it was the first to import, of one process that is asked for all of them."""
    asked = [[room, command] for room, names in COMMANDS.items() for command in names]
    call = [sys.executable, "-c", HELP_OF_ALL, json.dumps(asked)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [words for words, *_ in found] == asked
    return {tuple(words): told for words, *told in found}


@each_command
def test_help_of_a_command_has_two_examples_and_imports_no_torch(room, command, helps):
    code, shown, modules = helps[room, command]
    assert code == 0
    assert not set(HEAVY) & set(modules)
    lines = cli.examples(cli.find([room, command]))
    assert len(lines) >= 2, f"give the docstring two lines `matryo {room} ...` under Examples"
    flat = " ".join(shown.replace("\\\n", " ").split())
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert all(" ".join(line.split()) in flat for line in lines)
    assert "--config FILE" in flat and "[default: ]" not in flat


@each_command
def test_every_example_parses(room, command, monkeypatch):
    found = cli.find([room, command])
    monkeypatch.setattr(cli, "_config_file", None)
    for line in cli.examples(found):
        words = line.split("#")[0].split()
        assert words[:3] == ["matryo", room, command]
        function, _, _ = cli.app.parse_args(cli.prepare(words[1:]), exit_on_error=False, print_error=False)
        assert function is found.default_command


@each_command
def test_every_parameter_is_described(room, command):
    shown = cli.find([room, command]).assemble_argument_collection(parse_docstring=True)
    missing = [a.name for a in shown if a.show and not a.parameter.help and not a.children]
    assert not missing, "put a docstring under the field, or a line under Args:"


# --- values


@dataclass(frozen=True, kw_only=True)
class Part:
    k: int = 32
    kind: Literal["topk", "relu"] = "topk"
    levels: tuple[int, ...] = (1, 2)

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"k = {self.k}: expected a positive number,\n  give --sae.k 32")


@dataclass(frozen=True, kw_only=True)
class Config:
    n_latents: int = 5
    rate: float | None = 0.5
    on: bool = False
    text: tuple[str, ...] = ("pydocs",)
    sae: Part = field(default_factory=Part)


@pytest.fixture
def fake(monkeypatch):
    """A command `matryo sae fake`, and recipes; gives the list of calls."""
    calls = []

    def command(
        recipe: str = "base", /, *, config: Annotated[Config, Parameter(name="*")] = Config(), out: Path = Path("runs")
    ):
        """Do something.

        Examples:
            matryo sae fake
            matryo sae fake big --sae.k 3
        """
        calls.append((recipe, config, out))
        if out.name == "fail":
            open(out / "nothing")  # noqa: PTH123, SIM115
        if out.name == "full":
            check_space(out, 2**60, "the store")
        if out.name == "stop":
            raise KeyboardInterrupt
        if out.name == "bug":
            raise RuntimeError("ours")
        if out.name == "need":
            import a_package_that_is_not_there  # noqa: F401  # pyright: ignore[reportMissingImports]
        if out.name == "three":
            return 3
        return "printed by nobody"

    recipes = type(sys)("matryo.sae.recipes")
    table = {
        "base": {},
        "big": {"n_latents": 99, "sae.k": 64, "sae.levels": (7, 8), "of_another_command": 1},
        "odd": {"rate": None, "on": False, "text": (), "sae": {"k": 2, "kind": "relu"}},
    }
    recipes.recipe = table.__getitem__  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "matryo.sae.recipes", recipes)
    room = cli.find(["sae"])
    room.command(command, name="fake")
    yield calls
    del room["fake"]
    cli.prepare([])


def test_a_flag_wins_over_the_file_over_the_recipe_over_the_default(fake, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('rate = "none"\ntext = ["a", "b"]\n[sae]\nk = 3\nkind = "relu"\n')
    call = ["sae", "fake", "big", "--config", str(file), "--sae.kind", "topk", "--out", "elsewhere"]
    assert cli.run(call) == 0
    recipe, config, out = fake[0]
    assert (recipe, out) == ("big", Path("elsewhere"))
    assert config.sae == Part(k=3, kind="topk", levels=(7, 8))
    assert (config.n_latents, config.rate, config.text, config.on) == (99, None, ("a", "b"), False)


def test_the_default_recipe_counts_and_no_file_is_remembered(fake, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("on = true\n")
    assert cli.run(["sae", "fake", f"--config={file}"]) == 0
    assert cli.run(["sae", "fake"]) == 0
    assert [call[1].on for call in fake] == [True, False]


def test_a_recipe_may_hold_none_false_and_nothing_and_be_nested(fake):
    assert cli.run(["sae", "fake", "odd"]) == 0
    assert fake[0][1] == Config(rate=None, on=False, text=(), sae=Part(k=2, kind="relu"))


def test_a_run_folders_config_is_a_config_file(fake, tmp_path):
    from matryo.spine.config import to_toml

    wanted = Config(n_latents=3, rate=None, on=True, text=(), sae=Part(k=1, kind="relu", levels=(4,)))
    to_toml(wanted, tmp_path / "config.toml")
    assert cli.run(["sae", "fake", "big", "--config", str(tmp_path / "config.toml")]) == 0
    assert fake[0][1] == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n_latent = 3", "c.toml: unknown config key 'n_latent': did you mean 'n_latents'?"),
        ("[sae]\nlevel = [3]", "c.toml: unknown config key 'sae.level': did you mean 'sae.levels'?"),
        ("recipe = 'big'", "c.toml: unknown config key 'recipe'"),
        ("n_latents = 'x'", 'unable to convert "x" into int'),
        ("n_latents = = 3", "c.toml is not TOML"),
        (None, "c.toml: No such file or directory"),
    ],
)
def test_a_wrong_config_file_is_one_line(fake, tmp_path, capsys, text, message):
    if text is not None:
        (tmp_path / "c.toml").write_text(text)
    assert cli.run(["sae", "fake", "--config", str(tmp_path / "c.toml")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not fake


# --- flags of every command


@pytest.mark.parametrize(("flags", "mode"), [([], "auto"), (["--quiet"], "quiet"), (["--json"], "json")])
def test_progress_flags_may_stand_anywhere(fake, flags, mode):
    for call in ([*flags, "sae", "fake"], ["sae", "fake", *flags, "--on"], ["sae", "fake", *flags]):
        assert cli.run(call) == 0
        assert progress._mode == mode


def test_after_two_dashes_nothing_is_a_flag(fake):
    assert cli.prepare(["sae", "fake", "--on", "--", "--quiet"]) == ["sae", "fake", "--on", "--", "--quiet"]
    assert progress._mode == "auto"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quiet", "--json"], "exclude each other"),
        (["--config"], "needs the name"),
        (["--config="], "needs the name"),
    ],
)
def test_wrong_flags_of_every_command(fake, capsys, flags, message):
    assert cli.run(["sae", "fake", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("heading", ["Examples:\n        ", "Examples\n    --------\n        "])
def test_examples_are_found_in_both_docstring_styles(heading):
    def command(a: int = 0):
        pass

    command.__doc__ = (
        f"Do.\n\n    matryo sae no-example\n\n    {heading}matryo sae x\n        matryo sae y --a 3  # note\n"
    )
    assert cli.examples(App(default_command=command)) == ["matryo sae x", "matryo sae y --a 3  # note"]


def test_a_registered_line_does_not_hide_the_whole_help(fake, capsys):
    assert cli.run(["sae", "fake", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("Do something.") < shown.index("--sae.levels") < shown.index("matryo sae fake big --sae.k 3")
    assert not fake


# --- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sea"], "unknown room 'sea': did you mean 'sae'? (see matryo --help)"),
        (["sae", "fak"], "unknown command 'fak': did you mean 'fake'? (see matryo sae --help)"),
        (["sae", "fake", "--n-latent", "3"], "unknown flag '--n-latent': did you mean '--n-latents'?"),
        (["sae", "fake", "--quite"], "unknown flag '--quite': did you mean '--quiet'?"),
        (["sae", "fake", "big", "b"], "unexpected argument 'b'"),
        (["sae", "fake", "--n-latents", "x"], 'Invalid value for --n-latents: unable to convert "x" into int.'),
        (["sae", "fake", "--sae.kind", "topkk"], 'Did you mean "topk"?'),
        (["sae", "fake", "--sae.k", "0"], "k = 0: expected a positive number, give --sae.k 32"),
        (["sae", "fake", "--out", "/fail"], "/fail/nothing: No such file or directory"),
        (["sae", "fake", "--out", "/full"], "error: no space for the store"),
        (
            ["sae", "fake", "--out", "need"],
            "'a_package_that_is_not_there' is not installed; in matryo's folder: pip install -c ",
        ),
        (["sae", "fake", "--n-latents"], "--n-latents requires an argument"),
    ],
)
def test_an_error_of_the_users_is_one_line_and_exit_2(fake, capsys, arguments, message):
    assert cli.run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("matryo: error: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_with_json_an_error_is_an_object_too(fake, capsys):
    assert cli.run(["sae", "fake", "--sae.k", "0", "--json"]) == 2
    told = json.loads(capsys.readouterr().err)
    assert told == {"event": "error", "text": "k = 0: expected a positive number, give --sae.k 32"}
    assert cli.run(["sae", "fake", "--sae.k", "0"]) == 2
    assert capsys.readouterr().err.startswith("matryo: error: k = 0")


def test_an_error_of_ours_keeps_its_traceback(fake):
    with pytest.raises(RuntimeError, match="ours"):
        cli.run(["sae", "fake", "--out", "bug"])


def test_a_traceback_can_be_asked_for(fake, monkeypatch):
    monkeypatch.setenv("MATRYO_TRACEBACK", "1")
    with pytest.raises(ValueError, match="k = 0"):
        cli.run(["sae", "fake", "--sae.k", "0"])


def test_exit_codes_of_an_interrupt_and_of_a_command(fake, capsys):
    assert cli.run(["sae", "fake", "--out", "stop"]) == 130
    assert capsys.readouterr().err == "matryo: interrupted\n"
    assert cli.run(["sae", "fake", "--out", "three"]) == 3
    assert cli.run(["sae", "fake"]) == 0
    assert capsys.readouterr().out == ""


def test_a_mistake_in_a_real_process_prints_one_line():
    done = matryo("sae", "tarin")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "matryo: error: unknown command 'tarin': did you mean 'train'? (see matryo sae --help)\n"


def test_version_is_the_packages():
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", matryo("--version").stdout)


def test_a_reader_who_leaves_early_gets_no_error():
    call = f"{sys.executable} -m matryo sae --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", call], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode in (0, 1, 141)
