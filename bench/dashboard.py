"""The dashboard on a synthetic index of 50,000 latents and a million tokens: `python -m bench.dashboard`.

Activations are drawn, not computed: frequencies of latents fall as 1 / (rank + 20), each token has 32 latents, so that
what is timed is everything after the encoder. Pages are timed as a client on this machine gets them and, with
--browser, by how long Chromium takes from a click to the painted swap. With --run, an index of a real model is served
as well, and what needs the model is timed once it is loaded. Figures are printed as JSON.
"""

import argparse
import json
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np


def synthesise(folder: Path, latents: int, tokens: int, k: int, width: int) -> None:
    """What the first half of `sae index` would leave: rows, entries, and an SAE of random weights."""
    from matryo.sae.dashboard.index.record import FILES

    generator = np.random.default_rng(0)
    place = folder / "saes" / "synthetic"
    place.mkdir(parents=True)
    weights = 1 / (np.arange(latents) + 20)
    bounds = np.cumsum(weights / weights.sum())
    order = generator.permutation(latents).astype(np.uint32)
    with (place / "latent.bin").open("wb") as latent, (place / "act.bin").open("wb") as act:
        for first in range(0, tokens, 50_000):
            n = min(50_000, tokens - first)
            drawn = order[np.minimum(np.searchsorted(bounds, generator.random((n, k))), latents - 1)]
            drawn.sort(1)
            clash = drawn[:, 1:] == drawn[:, :-1]
            while clash.any():  # a latent is active once on a token
                rows = np.flatnonzero(clash.any(1))
                drawn[rows] = np.sort(generator.integers(0, latents, (len(rows), k), dtype=np.uint32), 1)
                clash = drawn[:, 1:] == drawn[:, :-1]
            latent.write(drawn.astype(FILES["latent"]).tobytes())
            act.write(generator.gamma(2.0, 2.0, n * k).astype(FILES["act"]).tobytes())
    np.full(tokens, k, FILES["count"]).tofile(place / "count.bin")
    told = {"tokens": tokens, "entries": {"synthetic": tokens * k}}
    (folder / "recorded.json").write_text(json.dumps(told))


def finalise(folder: Path, latents: int, tokens: int, k: int, width: int) -> None:
    """The second half, as `sae index` does it."""
    from matryo.sae.dashboard import Member, Vocabulary, build_index
    from matryo.sae.nn import SAEConfig, build
    from matryo.sae.text import TokenRows

    generator = np.random.default_rng(1)
    rows = -(-tokens // 255)
    ids = np.minimum(generator.zipf(1.2, (rows, 256)), 49_999).astype(np.int32)
    text = TokenRows(ids, np.zeros_like(ids), ("synthetic",))
    sae = build(SAEConfig(kind="batch_topk", d_in=width, n_latents=latents, k=k, levels="nested"))
    pieces = [f" w{i}" for i in range(50_000)]
    member = {"synthetic": Member(sae, "blocks.8.resid_pre", "gone", "0", "synthetic")}
    vocabulary = Vocabulary(pieces, [piece.encode() for piece in pieces])
    began = time.perf_counter()
    build_index(folder, member, text, vocabulary, lambda done: [], {"lm": "none", "split": "train"})
    told = {"index_s": round(time.perf_counter() - began, 1)}
    told["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    print(json.dumps(told))


def serve(folder: Path, port: int) -> None:
    """The server alone."""
    import uvicorn

    from matryo.sae.dashboard.index.opened import open_index
    from matryo.sae.dashboard.server.app import make_app
    from matryo.sae.dashboard.server.site import Site

    uvicorn.run(make_app(Site(open_index(folder))), port=port, log_level="error", lifespan="off")


def ask(base: str, path: str) -> float:
    """Milliseconds from the request to the whole answer, as a client on this machine sees them."""
    began = time.perf_counter()
    with urllib.request.urlopen(base + path) as answer:
        answer.read()
    return 1000 * (time.perf_counter() - began)


def measure(base: str, latents: int) -> dict[str, list[float]]:
    """p50 and p95 of every kind of page, in milliseconds."""
    generator, one = np.random.default_rng(2), "/sae/synthetic"
    some = [int(i) for i in generator.integers(0, latents, 60)]
    wheres = [f"density>{10**-x:.6f} entropy<{6 + x:.2f}" for x in generator.uniform(2, 5, 30)]
    kinds = {
        "latent page": [f"{one}/latents/{i}" for i in some],
        "table, filtered and sorted": [
            f"{one}/latents?{urllib.parse.urlencode({'where': w, 'sort': '-largest'})}" for w in wheres
        ],
        "co-activations": [f"{one}/latents/{i}/together" for i in some],
        "neighbours": [f"{one}/latents/{i}/neighbours" for i in some],
        "token search": [f"/search.json?q=w{i}+" for i in generator.integers(5, 400, 30)],
        "phrase search": [f"/search.json?q=w{i}+w1+" for i in generator.integers(2, 30, 20)],
        "levels": [f"{one}/levels"] * 5,
        "points of the map": [f"{one}/map.bin"] * 5,
    }
    found = {}
    for kind, paths in kinds.items():
        ask(base, paths[0])
        times = [ask(base, path) for path in paths]
        found[kind] = [round(float(np.percentile(times, q)), 1) for q in (50, 95)]
    return found


def measure_model(run: Path) -> dict[str, list[float]]:
    """p50 and p95 of pages that run the model, in milliseconds, over texts of 64 tokens of the index itself."""
    from matryo.sae.dashboard import open_index

    index = open_index(run)
    name, corpus = list(index.saes)[-1], index.corpus
    rows = corpus.rows.tokens[:, 1:65]
    texts = ["".join(corpus.piece(int(i)) for i in row).replace("↵", "\n") for row in rows[:: max(1, len(rows) // 20)]]
    some = np.flatnonzero(index.saes[name].stats["firings"] > 50)[:: max(1, index.saes[name].n_latents // 20)].tolist()
    queries = [{"sae": name, "text": text} for text in texts]
    kinds = {
        "prompt of 64 tokens": [f"/prompt?{urllib.parse.urlencode(query)}" for query in queries],
        "ablation, 64 tokens": [
            f"/steer?{urllib.parse.urlencode(query | {'latent': latent, 'edit': 'ablate'})}"
            for query, latent in zip(queries, some, strict=False)
        ],
        "logit lens": [f"/sae/{name}/latents/{latent}/logits" for latent in some],
        "near misses": [f"/sae/{name}/latents/{latent}/misses" for latent in some[:8]],
        "effects of ablation": [f"/sae/{name}/latents/{latent}/effects" for latent in some[:8]],
    }
    command = [sys.executable, "-m", "matryo", "--json", "sae", "serve", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            base = json.loads(server.stdout.readline())["url"].rstrip("/")
            found = {}
            for kind, paths in kinds.items():
                ask(base, paths[0])  # the first waits for the model
                times = [ask(base, path) for path in paths]
                found[kind] = [round(float(np.percentile(times, q)), 1) for q in (50, 95)]
            return found
        finally:
            server.terminate()


def time_logit_lens(latents: int, width: int) -> float:
    """Milliseconds of one decoder row through an unembedding of 50,257 tokens, as a latent's page reads it."""
    import torch

    from matryo.sae.dashboard.index.directions import read_logits

    rows, unembed = torch.randn(latents, width), torch.randn(width, 50_257)
    times = []
    for i in range(20):
        began = time.perf_counter()
        read_logits(rows[i : i + 1], unembed)
        times.append(1000 * (time.perf_counter() - began))
    return round(float(np.percentile(times, 95)), 1)


def browse(base: str) -> dict[str, list[float]]:
    """From a key to the swapped page, and the first drawing of the map, in Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(f"{base}/sae/synthetic/latents/1000")
        page.wait_for_timeout(1_500)
        swaps = []
        for _ in range(20):
            swaps.append(
                page.evaluate(
                    """() => new Promise(done => { const began = performance.now();
                    const seen = new MutationObserver(() => { seen.disconnect();
                      requestAnimationFrame(() => setTimeout(() => done(performance.now() - began))); });
                    seen.observe(document.body, { childList: true });
                    document.querySelector('a[data-key=j]').click(); })"""
                )
            )
            page.wait_for_timeout(400)
        page.goto(f"{base}/sae/synthetic/map")
        page.wait_for_timeout(3_000)
        drawn = float(page.evaluate("document.getElementById('map').dataset.drawn"))
        browser.close()
    return {"swap": [round(float(np.percentile(swaps, q)), 1) for q in (50, 95)], "map drawn": [drawn]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=int, default=50_000)
    parser.add_argument("--tokens", type=int, default=999_855, help="a multiple of 255")
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--browser", action="store_true")
    parser.add_argument("--stage", choices=("all", "finalise", "serve"), default="all")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--run", type=Path, help="an index of a real model, for what runs it")
    parser.add_argument("--port", type=int)
    asked = parser.parse_args()
    sizes = (asked.latents, asked.tokens, asked.k, asked.width)
    if asked.stage == "finalise":
        finalise(asked.folder, *sizes)
        return
    if asked.stage == "serve":
        serve(asked.folder, asked.port)
        return
    if asked.run:
        print(json.dumps(measure_model(asked.run)))
    print(json.dumps({"logit lens, p95 ms": time_logit_lens(asked.latents, asked.width)}))
    with tempfile.TemporaryDirectory() as place:
        folder = asked.folder or Path(place) / "index"
        if not (folder / "manifest.json").is_file():
            synthesise(folder, *sizes)
            again = [sys.executable, "-m", "bench.dashboard", "--stage", "finalise", "--folder", str(folder)]
            again += [part for n in ("latents", "tokens", "k", "width") for part in (f"--{n}", str(getattr(asked, n)))]
            print(subprocess.run(again, check=True, capture_output=True, text=True).stdout.strip())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        began = time.perf_counter()
        server = subprocess.Popen(
            [sys.executable, "-m", "bench.dashboard", "--stage", "serve", "--folder", str(folder), "--port", str(port)]
        )
        base = f"http://127.0.0.1:{port}"
        try:
            while True:
                try:
                    ask(base, "/help")
                    break
                except OSError:
                    time.sleep(0.02)
            print(json.dumps({"start_s": round(time.perf_counter() - began, 2)}))
            print(json.dumps(measure(base, asked.latents)))
            if asked.browser:
                print(json.dumps(browse(base)))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
