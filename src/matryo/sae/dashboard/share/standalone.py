"""Latents as pages that need no server: one HTML file, or a folder of them. Drawn by the dashboard's own templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from matryo.sae.dashboard.index.opened import IndexedSAE
from matryo.sae.dashboard.pages.charts import number, percent
from matryo.sae.dashboard.pages.render import inline, render
from matryo.sae.dashboard.server.notes import NOTHING
from matryo.sae.dashboard.views.latent import latent_view
from matryo.sae.dashboard.views.query import Query
from matryo.sae.dashboard.views.table import Labels
from matryo.spine.config import write_text

MOST_IN_A_FILE = 500
PER_FOLDER = 500
"""Latents whose pages share a folder and a list."""

_LINK = re.compile(r'<a class="chip" href="/sae/([^/"]*)/latents/(\d+)" data-card="[^"]*">(.*?)</a>', re.S)
_TIPS = "for (const t of document.querySelectorAll('.t')) t.title = t.dataset.v + ' at position ' + t.dataset.p;"

Place = Callable[[str, int], str | None]
"""From the name of an SAE, quoted, and a latent to the address of its page, if it has one."""


@lru_cache(maxsize=1)
def _style() -> str:
    return f"{inline('app.css')}\nbody {{ display: block; }} main {{ max-width: 90rem; margin: auto; }}"


def latent_html(sae: IndexedSAE, latent: int, labels: Labels, place: Place) -> str:
    """The body of one latent's page, with links only to pages that are there."""
    view = latent_view(sae, latent, Query({}))
    notes = {**NOTHING, **labels.get(latent, {})}
    view |= {"notes": notes, "run": "", "firings": view["stats"]["firings"], "automatic": ""}
    body = render("latent_body.html", view, static=True, tabs={})

    def link(match: re.Match[str]) -> str:
        target = place(match[1], int(match[2]))
        inside = match[3]
        return f'<a class="chip" href="{target}">{inside}</a>' if target else f'<span class="chip">{inside}</span>'

    # Of several latents in one file, no two headings may have one name, nor two landmarks one label.
    body = re.sub(r'id="(h-\w+)"', rf'id="\1-{latent}"', body)
    body = re.sub(r'<section aria-labelledby="[^"]*">', "<div>", body).replace("</section>", "</div>")
    return _LINK.sub(link, body)


def page_html(title: str, parts: Sequence[str], style: str | None = None) -> str:
    """A whole page around some HTML; the style inline, or at an address."""
    head = f'<link rel="stylesheet" href="{style}">' if style else f"<style>{_style()}</style>"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{head}</head>'
        f"<body><main>{''.join(parts)}</main><script>{_TIPS}</script></body></html>\n"
    )


def write_file(sae: IndexedSAE, latents: Sequence[int], path: Path, labels: Labels) -> None:
    """Write some latents as one HTML file that asks for nothing from anywhere.

    Raises:
        ValueError: there are none, or too many for a file that a browser opens gladly.
    """
    if not 0 < len(latents) <= MOST_IN_A_FILE:
        raise ValueError(
            f"{len(latents):,} latents for one file; expected 1 to {MOST_IN_A_FILE}: choose, or write a site"
        )
    there = set(latents)
    own = escape(sae.name)
    rows = "".join(_row(sae, i, f"#latent-{i}", labels) for i in latents)
    parts = [f"<h1>{own}</h1>{_about(sae)}{_table(rows)}"]
    for i in latents:
        body = latent_html(sae, i, labels, lambda name, j: f"#latent-{j}" if name == sae.name and j in there else None)
        parts.append(f'<article id="latent-{i}">{body.replace("<h1>", "<h2>").replace("</h1>", "</h2>")}</article><hr>')
    write_text(path, page_html(f"{sae.name}: {len(latents)} latents", parts))


def write_site(sae: IndexedSAE, latents: Sequence[int], folder: Path, labels: Labels) -> Iterator[int]:
    """Write a page for every latent, in folders of PER_FOLDER with a list each, and `index.html`; yields what is done.

    Raises:
        ValueError: the folder exists and is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; expected a new folder for the site")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "style.css", _style())
    there = set(latents)
    shards: dict[int, list[int]] = {}
    for i in latents:
        shards.setdefault(i // PER_FOLDER, []).append(i)
    for shard, members in shards.items():
        part = folder / f"{shard:04}"
        part.mkdir()
        for i in members:
            body = latent_html(sae, i, labels, _elsewhere(sae, there))
            top = f'<p><a href="index.html">← list</a> <a href="../index.html">{escape(sae.name)}</a></p>'
            write_text(part / f"{i}.html", page_html(f"latent {i} · {sae.name}", [top, body], "../style.css"))
            yield i
        rows = "".join(_row(sae, i, f"{i}.html", labels) for i in members)
        top = (
            f'<p><a href="../index.html">← {escape(sae.name)}</a></p><h1>Latents {members[0]:,} to {members[-1]:,}</h1>'
        )
        write_text(part / "index.html", page_html(f"latents of {sae.name}", [top, _table(rows)], "../style.css"))
    links = "".join(f'<li><a href="{s:04}/index.html">{m[0]:,} to {m[-1]:,}</a></li>' for s, m in shards.items())
    front = [f"<h1>{escape(sae.name)}</h1>{_about(sae)}<ul>{links}</ul>"]
    write_text(folder / "index.html", page_html(sae.name, front, "style.css"))


def _elsewhere(sae: IndexedSAE, there: set[int]) -> Place:
    return lambda name, j: f"../{j // PER_FOLDER:04}/{j}.html" if name == sae.name and j in there else None


def _about(sae: IndexedSAE) -> str:
    told = sae.index.manifest
    text = (
        f"{sae.told['site']} of {told['about']['lm']}, {sae.n_latents:,} latents, {sae.index.corpus.n_tokens:,} tokens"
    )
    return f"<p class='quiet'>{escape(text)}, index {sae.index.hash} of {escape(told['made'][:10])}</p>"


def _table(rows: str) -> str:
    heads = "".join(f'<th scope="col">{h}</th>' for h in ("latent", "label", "token", "density", "largest"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _row(sae: IndexedSAE, latent: int, target: str, labels: Labels) -> str:
    row: Any = sae.stats[latent]
    top = int(row["top_token"])
    piece = sae.index.corpus.piece(top) if top >= 0 else ""
    label = labels.get(latent, {}).get("label", "")
    return str(
        Markup(
            '<tr><td><a href="{}">{}</a></td><td>{}</td><td><span class="tok">{}</span></td><td>{}</td><td>{}</td></tr>'
        ).format(target, latent, label, piece, percent(float(row["density"])), number(float(row["largest"])))
    )


class LatentCard:
    """One latent, drawn in a notebook by the page's own template, without scripts."""

    def __init__(self, sae: IndexedSAE, latent: int) -> None:
        self.sae, self.latent = sae, sae.check(latent)

    def _repr_html_(self) -> str:
        body = latent_html(self.sae, self.latent, {}, lambda name, j: None)
        # A frame of its own, so that neither page's style reaches the other's.
        inside = escape(page_html(f"latent {self.latent}", [body]).replace(f"<script>{_TIPS}</script>", ""))
        return f'<iframe srcdoc="{inside}" width="100%" height="600" title="latent {self.latent}"></iframe>'

    def __repr__(self) -> str:
        return f"latent {self.latent} of {self.sae.name}"
