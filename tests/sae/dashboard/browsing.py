"""A dashboard of the planted SAEs in Debian's Chromium, in which nothing may go wrong unseen."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("playwright")
from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHOTS = os.environ.get("MATRYO_SCREENSHOTS")
"""Folder that screenshots are kept in; none are taken otherwise, except of pages that fail."""


def start_server(run, *flags):
    """The address of `matryo sae serve` in a process of its own, and the process."""
    command = [sys.executable, "-m", "matryo", "--json", "sae", "serve", str(run), "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate()[1])
    return json.loads(line)["url"].rstrip("/"), process


def stop(process):
    process.terminate()
    process.communicate(timeout=20)


def launch(playwright):
    if not Path(CHROMIUM).exists():
        if os.environ.get("CI"):
            raise AssertionError(f"there is no {CHROMIUM}: apt-get install chromium")
        pytest.skip("Chromium is not installed")
    return playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


class Watched:
    """A page with everything that must not happen: console errors, exceptions, requests to other hosts."""

    def __init__(self, browser, base, **options):
        self.base, self.problems = base, []
        self.context = browser.new_context(viewport={"width": 1360, "height": 900}, **options)
        self.context.route("**/*", self._guard)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))

    def _guard(self, route):
        url = route.request.url
        if url.startswith((self.base, "file://", "data:")):
            route.continue_()
        else:
            self.problems.append(f"request to {url}")
            route.abort()

    def open(self, path):
        self.page.goto(self.base + path)
        self.settled()

    def settled(self):
        """Wait until no part is being loaded any more."""
        self.until("!document.querySelector('[aria-busy=true], main.busy')")

    def until(self, condition):
        """Wait for a condition in JavaScript; the pages' policy forbids Playwright's own way, which is `eval`."""
        wait_for(lambda: self.page.evaluate(condition))

    def audit(self, name):
        """No accessibility violation by axe, no problem so far; a screenshot where they are kept."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        told = [f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:200]}" for v in found]
        assert not told, told
        assert not self.problems, self.problems
        self.shot(name)

    def shot(self, name):
        if SHOTS:
            folder = Path(SHOTS)
            folder.mkdir(parents=True, exist_ok=True)
            self.page.mouse.move(0, 0)
            self.page.screenshot(path=folder / f"{re.sub(r'[^a-z0-9]+', '-', name)}.png")


def value(base, path):
    """A page's JSON twin."""
    with urllib.request.urlopen(base + path) as answer:
        return json.load(answer)


def wait_for(check, seconds=60):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.05)


__all__ = ["Watched", "launch", "start_server", "stop", "sync_playwright", "value", "wait_for"]
