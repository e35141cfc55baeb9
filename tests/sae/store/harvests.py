"""Harvests of two sites in small chunks, as processes that can be killed in the midst of one."""

from pathlib import Path

SITES = ("blocks.1.mlp_out", "blocks.2.resid_pre")
STORES = tuple(f"store-{site}" for site in SITES)
CHUNK_TOKENS = 600

COMMAND = f"""
import sys
from matryo.cli import main
from matryo.sae import activations
from matryo.sae.store import writer
activations.CHUNK_TOKENS, writer.JOURNAL_SECONDS = {CHUNK_TOKENS}, 0.0
main(sys.argv[1:])
"""
"""The command itself, writing its journal after every few rows, so that there is much to be killed in."""


def arguments(text: Path, tokens: int) -> list[str]:
    """A harvest of the text at both sites."""
    options = f"--lm tiny --text file:{text} --tokens {tokens} --row-length 64 --shard-rows 5000"
    return ["sae", "harvest", *options.split(), *(part for site in SITES for part in ("--site", site))]


def content(run: Path) -> dict[str, bytes]:
    """Every file of the stores and the rows of tokens."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for folder in (*STORES, "rows")
        for path in sorted((run / folder).rglob("*"))
        if path.is_file()
    }
