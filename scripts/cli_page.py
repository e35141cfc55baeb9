"""Write docs/cli.md from the commands themselves: `python scripts/cli_page.py`; a test fails when it is out of date."""

import inspect
import re
import textwrap
from pathlib import Path

from cyclopts import App
from docstring_parser import parse

from matryo import cli
from matryo.spine.config import write_text

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"


def page() -> str:
    """Make the whole page."""
    parts = [
        "# Commands",
        "This page is written by `scripts/cli_page.py` from the commands' own help.",
        "    matryo ROOM COMMAND [ARGS] [--flag value]",
        "A value comes from the flag, else from the file of `--config`, else from the recipe, else from the default. "
        "With `--resume` it comes from the run; a flag, file or recipe beside it must say the same.",
        table(("every command takes", ""), [(f"`{flag}`", line) for flag, line in cli.GLOBAL_FLAGS.items()]),
        "Exit codes: 0 done; 2 an error of yours, in one line; 130 interrupted. "
        "`MATRYO_TRACEBACK=1` shows where an error comes from.",
    ]
    for room, line in cli.ROOMS.items():
        parts += [f"## matryo {room}", line]
        for name in cli.find([room]):
            if not name.startswith("-"):
                parts += section(room, name, cli.find([room, name]))
    return "\n\n".join(parts) + "\n"


def section(room: str, name: str, command: App) -> list[str]:
    """Describe one command: what it does, its examples, its arguments."""
    doc = parse(inspect.getdoc(command.default_command) or "")
    parts = [f"### matryo {room} {name}", literal(doc.short_description), literal(doc.long_description)]
    parts.append(textwrap.indent("\n".join(cli.examples(command)), "    "))
    rows = []
    for argument in command.assemble_argument_collection(parse_docstring=True):
        if argument.show and not argument.children:
            default = argument.field_info.default
            shown = "" if default in (inspect.Parameter.empty, None, ()) else f"`{plain(default)}`"
            names = " ".join(f"`{n}`" for n in argument.names if not n.startswith(("--no-", "--empty-")))
            rows.append((names, literal(argument.parameter.help), shown))
    return [part for part in [*parts, table(("argument", "", "default"), rows)] if part]


def literal(text: str | None) -> str:
    """Keep brackets and the like, outside of code, from being Markdown."""
    parts = (text or "").split("`")
    return "`".join(part if i % 2 else re.sub(r"([\[\]<>*])", r"\\\1", part) for i, part in enumerate(parts))


def plain(default: object) -> str:
    """Show a default the way it is typed."""
    if isinstance(default, tuple | list):
        return " ".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else str(default)


def table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Set a Markdown table."""
    lines = [headers, tuple("---" for _ in headers), *rows]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


if __name__ == "__main__":
    write_text(PAGE, page())
