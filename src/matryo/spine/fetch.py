"""Archives from PyPI and npm: by name, version and SHA-256, through the ordinary clients, cached.

Nothing is installed and no code of a package is run: only the archive is fetched (`pip download`, `npm pack`), its
hash is checked, and it is moved into the cache in one step. A file in the cache is therefore complete and right.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

Registry = Literal["pypi", "npm"]

_PARTIAL = ".partial-"
_STALE_SECONDS = 24 * 3600  # a partial folder this old belongs to a process that was killed


class FetchError(OSError):
    """An archive could not be fetched or is not the expected one; the message is one line with the fix."""


def cache_dir() -> Path:
    """Folder of everything matryo downloads or converts.

    `MATRYO_CACHE` if set, else `XDG_CACHE_HOME/matryo`, else `~/.cache/matryo`. The folder is not created here.
    """
    if own := os.environ.get("MATRYO_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "matryo"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def archive_path(registry: Registry, name: str, version: str, filename: str | None = None) -> Path:
    """Where the archive of a package is, or would be, in the cache.

    `filename` defaults to what `npm pack` writes (npm) or to a pure-Python wheel's name (PyPI).
    """
    if filename is None:
        if registry == "npm":
            filename = f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
        else:
            filename = f"{re.sub(r'[-_.]+', '_', name).lower()}-{version}-py3-none-any.whl"
    return cache_dir() / "packages" / registry / filename


def fetch_package(
    registry: Registry,
    name: str,
    version: str,
    sha256: str,
    filename: str | None = None,
    *,
    notify: Callable[[str], None] | None = None,
) -> Path:
    """The verified archive of `name` at `version`, from the cache or else from the registry.

    Args:
        registry: `"pypi"` (wheels only, so that nothing is built) or `"npm"`.
        name: The package's name in the registry.
        version: Its exact version.
        sha256: The archive's SHA-256; a file with any other hash is removed and refused.
        filename: The archive's file name, where it is not the usual one.
        notify: Called with one line before a download starts.

    Returns:
        Path of the archive in the cache.

    Raises:
        ValueError: The registry is neither of the two.
        FetchError: No client, no network, no such version, or another hash. Nothing half-written stays.
    """
    if registry not in ("pypi", "npm"):
        raise ValueError(f"registry {registry!r}: expected 'pypi' or 'npm'")
    target = archive_path(registry, name, version, filename)
    if target.is_file():
        if file_sha256(target) == sha256:
            return target
        target.unlink()  # damaged since it was stored
    command = _client(registry, name, version, sha256, target)
    if notify is not None:
        notify(f"fetching {name} {version} from {registry}")
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=target.parent) as folder:
        fetched = _download(command, Path(folder), registry, name, version, sha256, target)
        found = file_sha256(fetched)
        if found != sha256:
            raise FetchError(
                f"{name} {version} from {registry} has sha256 {found}, expected {sha256}: the archive was removed; "
                "the registry's copy changed or the download was altered, try again or another network"
            )
        fetched.replace(target)
    return target


def _by_hand(sha256: str, target: Path) -> str:
    return f"or put the archive with sha256 {sha256} at {target} by hand"


def _client(registry: Registry, name: str, version: str, sha256: str, target: Path) -> list[str]:
    """The command that fetches the archive into the current folder."""
    if registry == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise FetchError(
                f"{name} {version} comes from npm and there is no npm on PATH: install Node.js "
                f"(apt install npm), {_by_hand(sha256, target)}"
            )
        flags = ["--ignore-scripts", "--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        return [npm, "pack", *flags, "--", f"{name}@{version}"]
    flags = ["download", "--no-deps", "--only-binary=:all:", "--quiet", "--retries=1", "--dest=."]
    flags += ["--disable-pip-version-check", "--no-input", f"{name}=={version}"]
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", *flags]
    if uv := shutil.which("uv"):  # uv has no `download`, and its environments have no pip: let it run pip
        return [uv, "tool", "run", "pip", *flags]
    if pip := shutil.which("pip3") or shutil.which("pip"):
        return [pip, *flags]
    raise FetchError(
        f"{name} {version} comes from PyPI and there is neither pip nor uv: install pip "
        f"(python -m ensurepip), {_by_hand(sha256, target)}"
    )


def _download(
    command: list[str], folder: Path, registry: Registry, name: str, version: str, sha256: str, target: Path
) -> Path:
    """Run the client in `folder` and return the one archive it left there."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    archives = [path for path in folder.iterdir() if path.is_file() and path.suffix in (".tgz", ".whl")]
    if done.returncode != 0 or len(archives) != 1:
        said = _reason(done.stderr) or _reason(done.stdout) or f"it left {len(archives)} archives"
        client = "npm" if registry == "npm" else "pip"
        raise FetchError(
            f"could not fetch {name} {version} from {registry} ({client} exit {done.returncode}: {said}): "
            f"check the network and try again, {_by_hand(sha256, target)}"
        )
    return archives[0]


def _reason(output: str) -> str:
    """The client's complaint on one line: its error lines if it marks them, else its last line."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in output.splitlines() if line.strip()]
    marked = [line for line in lines if re.match(r"(npm )?err(or)?\b", line, re.IGNORECASE)]
    chosen = [re.sub(r"^(npm )?err(or)?[!:]?\s*", "", line, flags=re.IGNORECASE) for line in marked[:2]]
    return "; ".join(chosen or lines[-1:])[:300]


def _sweep(folder: Path) -> None:
    """Remove what killed processes left behind."""
    for path in folder.glob(_PARTIAL + "*"):
        try:
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:
            continue  # another process swept it
