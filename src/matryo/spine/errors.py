"""One-line errors: the value, what was expected, the fix."""

import difflib
import errno
import shutil
from collections.abc import Iterable
from pathlib import Path


def unknown(what: str, value: str, options: Iterable[str], fix: str = "") -> ValueError:
    """Build the error for a name that is not one of `options`; the nearest of them is offered.

    Args:
        what: The kind of thing named, such as "recipe".
        value: The name that was given.
        options: The names that exist.
        fix: What else to do, added at the end.

    Returns:
        The error, for the caller to raise.

    Example:
        >>> unknown("recipe", "gpt2-smal", ["gpt2-small", "smollm2"])
        ValueError("unknown recipe 'gpt2-smal': did you mean 'gpt2-small'?")
    """
    names = sorted(set(options))
    folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(value.casefold(), folded, n=1, cutoff=0.5)
    if near:
        hint = f"did you mean {folded[near[0]]!r}?"
    else:
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        hint = f"expected one of {', '.join(names[:12])}{more}" if names else "there are none"
    return ValueError(f"unknown {what} {value!r}: {hint}" + (f"; {fix}" if fix else ""))


class NoSpaceError(OSError):
    """The disk is full, or would be."""


def check_space(path: Path, need_bytes: int, what: str) -> None:
    """Refuse to start writing what would not fit.

    Args:
        path: File or folder to be written; its nearest existing parent is asked for its free space.
        need_bytes: Size of what will be written, in bytes.
        what: What will be written, for the message.

    Raises:
        NoSpaceError: The file system of `path` has less than `need_bytes` free.
    """
    here = path.absolute()
    while not here.exists():
        here = here.parent
    free = shutil.disk_usage(here).free
    if free < need_bytes:
        raise NoSpaceError(
            errno.ENOSPC,
            f"no space for {what}: {human_bytes(need_bytes)} needed, {human_bytes(free)} free in {here}; "
            "free some or write to another folder",
        )


def human_bytes(count: int) -> str:
    """Write a number of bytes with a binary unit.

    Example:
        >>> human_bytes(1536), human_bytes(12)
        ('1.5 KiB', '12 B')
    """
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.1f} {units[0]}" if units[0] != "B" else f"{count} B"
