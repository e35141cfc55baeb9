"""The front door: `matryo ROOM COMMAND`. It knows the rooms by name and imports one only when it is named."""

import inspect
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, NoReturn, get_args

from cyclopts import (
    App,
    CycloptsError,
    Parameter,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)
from cyclopts.argument import ArgumentCollection, update_argument_collection

from matryo.spine.errors import INSTALL, unknown
from matryo.spine.progress import set_mode, to_json

GLOBAL_FLAGS = {
    "--config FILE": "Values from a TOML file, such as a run's config.toml.",
    "--quiet": "Results and errors only, no progress.",
    "--json": "Progress, results and errors as JSON, one object a line.",
}
ROOMS = {
    "sae": "Sparse autoencoders on a language model's activations.",
    "phenology": "NDVI series: the season's dates with their errors, and what drives them.",
    "empathy": "Empathic DQN, its gridworlds, and what side effects its agents have.",
}

_EPILOGUE = "Every command also takes:\n" + "\n".join(f"  {f:15}{line}" for f, line in GLOBAL_FLAGS.items())
_config_file: Path | None = None  # of --config; set by `prepare` for the command that follows
_as_json = False


def layer(command: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill what no flag gave, for cyclopts: flag > `--config` file > recipe > the run of `--resume` > default.

    A command's parameter called `recipe` names a recipe of its room: `matryo.ROOM.recipes.recipe(name)` gives a dict of
    field values, nested as the fields are. Values the command has no field for are passed over, as a recipe serves
    several commands; an unknown key of the file is an error. With `--resume RUN` the rest is what that run was told, so
    that what the command gets differs from it in nothing but what was given, which the run folder refuses by name.
    """
    from matryo.spine.config import flatten, read_toml  # late: help needs none of it

    _check_whole_numbers(arguments)
    if _config_file is not None:
        values = flatten(read_toml(_config_file))
        for key in values:
            if not _takes(arguments, key):
                keys = [".".join(a.keys) or a.field_info.name for a in arguments if a.name.startswith("--")]
                raise ValueError(f"{_config_file}: {unknown('config key', key, keys)}")
        update_argument_collection(values, str(_config_file), arguments, root_keys=(), allow_unknown=False)
    for argument in arguments:
        if argument.field_info.name == "recipe":
            name = argument.tokens[0].value if argument.tokens else argument.field_info.default
            if isinstance(name, str):
                recipe = flatten(import_module(f"matryo.{commands[0]}.recipes").recipe(name))
                values = {key: value for key, value in recipe.items() if _takes(arguments, key)}
                update_argument_collection(values, f"recipe {name}", arguments, root_keys=(), allow_unknown=False)
    for argument in arguments:
        if argument.field_info.name == "resume" and argument.tokens:
            file = Path(argument.tokens[0].value) / "config.toml"
            told = flatten(read_toml(file)) if file.is_file() else {}  # the command says that it is no run
            values = {key: value for key, value in told.items() if _takes(arguments, key)}
            update_argument_collection(values, str(file), arguments, root_keys=(), allow_unknown=False)


def _check_whole_numbers(arguments: ArgumentCollection) -> None:
    """Refuse what cyclopts would round: a wrong value is better said than changed. 2.0 and 1e6 are whole."""
    for argument in arguments:
        kinds = {argument.hint, *get_args(argument.hint)}
        for token in argument.tokens if int in kinds and float not in kinds else ():
            if re.fullmatch(r"[+-]?\d*\.\d*[1-9]\d*", token.value):
                raise ValueError(f"{argument.name} is {token.value}; expected a whole number")


def _takes(arguments: ArgumentCollection, key: str) -> bool:
    try:
        return arguments.match(f"--{key}")[0].name.startswith("--")
    except ValueError:
        return False


def _shown(default: Any) -> Any:
    """How help shows a default: as it is typed, and none where there is nothing to type."""
    return (" ".join(map(str, default)) if isinstance(default, tuple) else default) if default not in ((), "") else None


app = App(
    name="matryo",
    help="Three rooms, one spine; `matryo ROOM --help` lists a room's commands.",
    help_format="plaintext",
    help_epilogue=_EPILOGUE,
    version=lambda: sys.modules["matryo"].__version__,
    config=layer,
    default_parameter=Parameter(negative_iterable=(), show_default=_shown),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for _room, _line in ROOMS.items():
    app.command(f"matryo.{_room}.commands.room:app", name=_room, help=_line)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0, or 2 after a user's error (one line is printed), or 130 when interrupted.

    Args:
        arguments: What was typed after `matryo`; from `sys.argv` by default.
    """
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; MATRYO_TRACEBACK=1 shows where an error comes from."""
    # Threads that wait for each other sleep instead of spinning: no slower alone, and several times faster on a machine
    # that does something else besides. Read by OpenMP when PyTorch is imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal without "×" or "≤" gets "?": no work is lost over it
            stream.reconfigure(errors="replace")
    try:
        result = app(prepare(arguments), exit_on_error=False, print_error=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("matryo: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except (CycloptsError, ValueError, OSError, ImportError) as error:
        line = explain(error)
        if line is None or os.environ.get("MATRYO_TRACEBACK", "0") not in ("", "0"):
            raise
        line = re.sub(r"\s+", " ", line).strip()
        told = to_json({"event": "error", "text": line}) if _as_json else f"matryo: error: {line}"
        print(told, file=sys.stderr)  # noqa: T201
        return 2


def prepare(arguments: Sequence[str]) -> list[str]:
    """Act on the flags that every command takes, and return the other arguments.

    For --help, also gives the command its whole help: the line it is registered with would stand in its place.
    """
    global _config_file, _as_json
    before, dashes, after = list(arguments), [], []
    if "--" in before:
        cut = before.index("--")
        before, dashes, after = before[:cut], ["--"], before[cut + 1 :]
    quiet, _as_json = "--quiet" in before, "--json" in before
    if quiet and _as_json:
        raise ValueError("--quiet and --json exclude each other: give one of them")
    set_mode("quiet" if quiet else "json" if _as_json else "auto")
    kept, file = [], None
    rest = iter(before)
    for token in rest:
        if token == "--config" or token.startswith("--config="):
            file = token.partition("=")[2] or next(rest, None)
            if not file:
                raise ValueError("--config needs the name of a TOML file after it")
        elif token not in ("--quiet", "--json"):
            kept.append(token)
    _config_file = Path(file) if file else None
    if {"--help", "-h"} & set(kept):
        _whole_help(find(kept))
    return kept + dashes + after


def find(tokens: Sequence[str]) -> App:
    """Follow the leading words of a command line to the command (or room) they name, importing it."""
    here = app
    for token in tokens:
        if token.startswith("-") or token not in here:
            break
        here = here[token]
    return here


def examples(command: App) -> list[str]:
    """List the command lines under "Examples" in a command's docstring, of Google's style or NumPy's."""
    section = re.split(r"^Examples:?$", inspect.getdoc(command.default_command) or "", maxsplit=1, flags=re.M)[1:]
    return [line.strip() for line in "".join(section).splitlines() if line.strip().startswith("matryo ")]


def _whole_help(command: App) -> None:
    if command.default_command is not None:
        from docstring_parser import parse

        doc = parse(inspect.getdoc(command.default_command) or "")
        paragraphs = [doc.short_description or "", *re.split(r"\n\s*\n", doc.long_description or "")]
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)  # the terminal breaks lines
        lines = "".join(f"  {_fold(line)}\n" for line in examples(command))
        command.help_formatter = _formatter()
        command.help_epilogue = f"Examples:\n{lines}\n{_EPILOGUE}"


def _fold(line: str) -> str:
    """A command line over as many lines of the terminal as it needs, still one to a shell that it is pasted into."""
    width, (first, *flags) = get_terminal_size().columns - 4, re.split(r" (?=--)", line)
    folded = [first]
    for flag in flags:
        if len(folded[-1]) + len(flag) < width:
            folded[-1] += f" {flag}"
        else:
            folded.append(f"    {flag}")
    return " \\\n  ".join(folded)


def _formatter() -> Any:
    """Help in which the lines of a docstring are broken by the terminal, not where the source has them."""
    from cyclopts.help import DefaultFormatter
    from rich.text import Text

    class Formatter(DefaultFormatter):
        def __call__(self, console: Any, options: Any, panel: Any) -> None:
            for entry in panel.entries:
                if isinstance(shown := getattr(entry.description, "primary_renderable", None), Text):
                    shown.plain = " ".join(shown.plain.split())
            super().__call__(console, options, panel)

    return Formatter()


def explain(error: Exception) -> str | None:
    """Say an error of the user's in one line; None if it is not the user's."""
    match error:
        case UnknownOptionError():
            names = [name for a in error.argument_collection for name in a.names if name.startswith("--")]
            flag = error.token.keyword or error.token.value
            return str(unknown("flag", flag, [*names, "--config", "--quiet", "--json", "--help"], _see(error)))
        case UnknownCommandError(unused_tokens=[token, *_], app=App() as where):
            names = [name for name in where if not name.startswith("-")]
            return str(unknown("room" if where is app else "command", token, names, _see(error)))
        case UnusedCliTokensError(unused_tokens=[token, *_]):
            return f"unexpected argument {token!r}: the command takes no more of them; {_see(error)}"
        case ValidationError(exception_message=str(message)) if message:
            return message
        case ImportError():
            missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
            name = getattr(missing, "name", None)
            if not isinstance(missing, ModuleNotFoundError) or not name or name.partition(".")[0] == "matryo":
                return None
            return f"the package {name!r} is not installed; {INSTALL}"
        case OSError(strerror=str(reason)):
            return reason if error.filename is None else f"{error.filename}: {reason}"
    return str(error)


def _see(error: CycloptsError) -> str:
    return f"see {' '.join(['matryo', *(error.command_chain or ()), '--help'])}"
