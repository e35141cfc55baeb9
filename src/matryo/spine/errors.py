"""One-line errors: the value, what was expected, the fix."""

import difflib
import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

INSTALL = "in matryo's folder: pip install -c constraints.txt -e '.[all]'"  # what a missing package needs


def unknown(what: str, value: str, options: Iterable[str], fix: str = "") -> ValueError:
    """Build the error for a name that is none of `options`, with the nearest of them and what else to do.

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
    return ValueError(f"unknown {what} {value!r}: {hint}" + (f" ({fix})" if fix else ""))


class NoSpaceError(OSError):
    """The disk is full, or would be."""


def check_space(path: Path, need_bytes: int, what: str) -> None:
    """Raise NoSpaceError if the file system of `path`, which need not exist yet, has less than `need_bytes` free."""
    here = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    free = shutil.disk_usage(here).free
    if free < need_bytes:
        sizes = f"{human_bytes(need_bytes)} needed, {human_bytes(free)} free in {here}"
        raise NoSpaceError(errno.ENOSPC, f"no space for {what}: {sizes}; free some or write to another folder")


def human_bytes(count: int) -> str:
    """Write a number of bytes with a binary unit.

    Example:
        >>> human_bytes(1536), human_bytes(12)
        ('1.5 KiB', '12 B')
    """
    power = min(max(0, int(count).bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f} {'KMGT'[power - 1]}iB" if power else f"{count} B"
