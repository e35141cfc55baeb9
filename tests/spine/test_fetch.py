"""Packages through the ordinary clients: real pip on a local folder of wheels, a stand-in for npm on PATH."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from matryo.spine import fetch
from matryo.spine.fetch import FetchError, archive_path, cache_dir, fetch_package, file_sha256

ARCHIVE = b"the archive's bytes"
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MATRYO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fake_npm(tmp_path: Path, monkeypatch, script: str) -> Path:
    """An `npm` on PATH that logs its arguments and runs `script` in the folder it is called in."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    log = tmp_path / "calls"
    npm = folder / "npm"
    npm.write_text(f'#!/bin/sh\necho "$@" >> {log}\n{script}\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return log


def left_behind(cache: Path) -> list[str]:
    return sorted(path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file())


def make_wheel(folder: Path, name: str, version: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/data.txt", "payload")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("MATRYO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "matryo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "matryo"


def test_npm_archive_is_fetched_once(tmp_path, monkeypatch, cache):
    log = fake_npm(tmp_path, monkeypatch, f"printf '%s' \"{ARCHIVE.decode()}\" > scope-pack-1.2.3.tgz")
    said = []
    path = fetch_package("npm", "@scope/pack", "1.2.3", SHA256, notify=said.append)
    assert path == archive_path("npm", "@scope/pack", "1.2.3")
    assert path.read_bytes() == ARCHIVE and file_sha256(path) == SHA256
    assert said == ["fetching @scope/pack 1.2.3 from npm"]
    assert fetch_package("npm", "@scope/pack", "1.2.3", SHA256, notify=said.append) == path
    assert len(said) == 1
    (call,) = log.read_text().splitlines()
    assert call.startswith("pack ") and "--ignore-scripts" in call and call.endswith("@scope/pack@1.2.3")
    assert left_behind(cache) == ["packages/npm/scope-pack-1.2.3.tgz"]


def test_a_damaged_archive_in_the_cache_is_fetched_again(tmp_path, monkeypatch):
    fake_npm(tmp_path, monkeypatch, f"printf '%s' \"{ARCHIVE.decode()}\" > pack-1.0.0.tgz")
    path = fetch_package("npm", "pack", "1.0.0", SHA256)
    path.write_bytes(ARCHIVE[:-1])
    assert fetch_package("npm", "pack", "1.0.0", SHA256).read_bytes() == ARCHIVE


def test_wrong_hash_is_refused_and_removed(tmp_path, monkeypatch, cache):
    fake_npm(tmp_path, monkeypatch, "printf 'something else' > pack-1.0.0.tgz")
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(FetchError, match=rf"sha256 {found}, expected {SHA256}") as caught:
        fetch_package("npm", "pack", "1.0.0", SHA256)
    assert "\n" not in str(caught.value)
    assert left_behind(cache) == []


def test_failing_client_is_told_in_one_line(tmp_path, monkeypatch, cache):
    fake_npm(
        tmp_path,
        monkeypatch,
        "printf 'half' > pack-1.0.0.tgz; printf 'npm error code ENOTFOUND\\nnpm error network down\\n' >&2; exit 7",
    )
    with pytest.raises(FetchError) as caught:
        fetch_package("npm", "pack", "1.0.0", SHA256)
    message = str(caught.value)
    assert "\n" not in message and "code ENOTFOUND; network down" in message and "exit 7" in message
    assert str(archive_path("npm", "pack", "1.0.0")) in message  # where to put it by hand
    assert left_behind(cache) == []


def test_missing_npm_names_the_alternative(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match=r"no npm on PATH: install Node\.js") as caught:
        fetch_package("npm", "pack", "1.0.0", SHA256)
    target = archive_path("npm", "pack", "1.0.0")
    assert str(target) in str(caught.value)
    target.parent.mkdir(parents=True)
    target.write_bytes(ARCHIVE)  # put there by hand, as the message says
    assert fetch_package("npm", "pack", "1.0.0", SHA256) == target


def test_interrupted_download_leaves_nothing(tmp_path, monkeypatch, cache):
    fake_npm(tmp_path, monkeypatch, "printf 'half' > pack-1.0.0.tgz; touch started; sleep 60")
    code = f"from matryo.spine.fetch import fetch_package; fetch_package('npm', 'pack', '1.0.0', {SHA256!r})"
    environment = os.environ | {"PYTHONPATH": str(Path(fetch.__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 30
        while not list(cache.rglob("started")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        assert any("half" in path.read_text() for path in cache.rglob("*.tgz"))  # in the partial folder
        assert not archive_path("npm", "pack", "1.0.0").exists()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the stand-in's sleep
    assert left_behind(cache) == []


def test_what_a_killed_process_left_is_swept(tmp_path, monkeypatch, cache):
    fake_npm(tmp_path, monkeypatch, f"printf '%s' \"{ARCHIVE.decode()}\" > pack-1.0.0.tgz")
    stale, fresh = (archive_path("npm", "pack", "1.0.0").parent / f".partial-{name}" for name in ("old", "new"))
    for folder in (stale, fresh):
        folder.mkdir(parents=True)
        (folder / "pack-1.0.0.tgz").write_text("half")
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(stale, (two_days_ago, two_days_ago))
    fetch_package("npm", "pack", "1.0.0", SHA256)
    assert not stale.exists() and fresh.exists()  # the fresh one may belong to a running process


def test_pip_downloads_the_wheel_and_nothing_else(tmp_path, monkeypatch, cache):
    wheel = make_wheel(tmp_path / "index", "some_pack", "0.1.2")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    path = fetch_package("pypi", "some-pack", "0.1.2", file_sha256(wheel))
    assert path.read_bytes() == wheel.read_bytes()
    assert left_behind(cache) == ["packages/pypi/some_pack-0.1.2-py3-none-any.whl"]
    with pytest.raises(FetchError, match=r"could not fetch some-pack 9\.9 from pypi \(pip exit 1: .*9\.9") as caught:
        fetch_package("pypi", "some-pack", "9.9", SHA256)
    assert "\n" not in str(caught.value)


def test_uv_runs_pip_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    check = '[ "$1 $2 $3 $4" = "tool run pip download" ] || exit 9'
    uv.write_text(f'#!/bin/sh\n{check}\nprintf "{ARCHIVE.decode()}" > a.whl\n')
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{uv.parent}{os.pathsep}{os.environ['PATH']}")
    assert fetch_package("pypi", "a", "1", SHA256).read_bytes() == ARCHIVE
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(FetchError, match="neither pip nor uv"):
        fetch_package("pypi", "b", "1", SHA256)


def test_unknown_registry():
    with pytest.raises(ValueError, match="registry 'cpan': expected 'pypi' or 'npm'"):
        fetch_package("cpan", "a", "1", SHA256)  # type: ignore[arg-type]
