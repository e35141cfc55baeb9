"""The pages: address, view and template of each, and the addresses that give files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
from starlette.responses import JSONResponse, RedirectResponse, Response

from matryo.sae.dashboard.index.opened import IndexedSAE
from matryo.sae.dashboard.server.site import Site
from matryo.sae.dashboard.views import latent as latents
from matryo.sae.dashboard.views import overview, table
from matryo.sae.dashboard.views.compare import compare_view
from matryo.sae.dashboard.views.examples import TABS
from matryo.sae.dashboard.views.levels import levels_view
from matryo.sae.dashboard.views.live_latent import effects_view, logits_view, misses_view
from matryo.sae.dashboard.views.measured import measured_view
from matryo.sae.dashboard.views.meta import meta_view
from matryo.sae.dashboard.views.pair import pair_view
from matryo.sae.dashboard.views.prompt import SORTS, prompt_view
from matryo.sae.dashboard.views.query import Query
from matryo.sae.dashboard.views.runs import runs_view
from matryo.sae.dashboard.views.search import phrase_view
from matryo.sae.dashboard.views.steer import EDITS, POSITIONS, steer_view
from matryo.sae.dashboard.views.stitch import stitch_view, stitched_view

View = Callable[[Site, Mapping[str, Any], Query], dict[str, Any]]


class NotFoundError(ValueError):
    """What was asked for does not exist."""


@dataclass(frozen=True)
class Page:
    """One page."""

    path: str
    view: View
    template: str
    needs_sae: bool = True
    context: dict[str, Any] = field(default_factory=dict)


def _sae(site: Site, path: Mapping[str, Any], query: Query) -> IndexedSAE:
    return site.index.sae(path.get("sae") or query.text("sae") or site.names[0])


def _overview(site: Site, path: Mapping[str, Any], query: Query) -> dict[str, Any]:
    sae = _sae(site, path, query)
    return overview.overview_view(sae) | {"measured": measured_view(sae, site.runs)}


def _latent(site: Site, path: Mapping[str, Any], query: Query) -> dict[str, Any]:
    sae = _sae(site, path, query)
    view = latents.latent_view(sae, path["latent"], query)
    view |= {"notes": site.notes.get(sae.name, path["latent"]), "run": str(site.index.folder.parent)}
    view["history"] = site.notes.history(sae.name, path["latent"])
    there = {label for _, label in site.links(sae.name)}
    view |= {"has_meta": "Meta-latents" in there, "has_stitch": "Stitching" in there}
    return view | {"firings": view["stats"]["firings"], "automatic": automatic(view)}


def automatic(view: Mapping[str, Any]) -> str:
    """A label made of a latent's most frequent and most raised tokens, for want of a person's."""
    words = " ".join(f"«{t['piece']}»" for t in view["top_tokens"][:3])
    raised = " ".join(f"«{t['piece']}»" for t in (view["logits"] or {"top": []})["top"][:3])
    return f"on {words}" + (f", raises {raised}" if raised else "") if words else ""


def _card(site: Site, path: Mapping[str, Any], query: Query) -> dict[str, Any]:
    sae = _sae(site, path, query)
    return latents.card_view(sae, path["latent"]) | {"notes": site.notes.get(sae.name, path["latent"])}


def _table(site: Site, path: Mapping[str, Any], query: Query) -> dict[str, Any]:
    sae = _sae(site, path, query)
    view = table.table_view(sae, query, site.notes.labels(sae.name), site.beside(sae.name))
    return view | {"run": str(site.index.folder.parent)}


def _search(site: Site, path: Mapping[str, Any], query: Query) -> dict[str, Any]:
    sae = _sae(site, path, query)
    asked = query.text("q", longest=500)
    if (number := asked.strip()).isascii() and number.isdigit() and len(number) < 10:
        return {"redirect": f"/sae/{quote(sae.name, safe='')}/latents/{int(number)}", "q": asked, "sae": sae.name}
    phrase = asked.strip().removeprefix('"').removesuffix('"') if asked.strip().startswith('"') else asked
    found = phrase_view(sae, phrase, not query.flag("case")) if phrase.strip() else None
    return {"q": asked, "sae": sae.name, "labels": site.notes.find(asked), "found": found}


def _map(site: Site, path: Mapping[str, Any], query: Query) -> dict[str, Any]:
    sae = _sae(site, path, query)
    where = query.text("where", longest=1_000)
    labels, beside = site.notes.labels(sae.name), site.beside(sae.name)
    marked = np.flatnonzero(table.passing(sae, where, labels, beside)).tolist() if where.strip() else []
    listed = [latents.chip(sae, latent) for latent in marked[:100]]
    return {"sae": sae.name, "where": where, "count": sae.n_latents, "marked": marked[:5_000], "listed": listed}


def _chosen(site: Site, path: Mapping[str, Any], query: Query) -> dict[str, Any]:
    """Some latents by number, as a lasso has them: chips, and the tokens that several of them are active on most."""
    sae = _sae(site, path, query)
    words = query.text("of", longest=4_000).split(",")
    picked = [sae.check(Query({"of": word}).whole("of", 0)) for word in words if word]
    ids, times = np.unique(sae.stats["top_token"][picked], return_counts=True)
    best = [i for i in np.lexsort((ids, -times)) if ids[i] >= 0][:8]
    tokens = [{"piece": sae.index.corpus.piece(int(ids[i])), "latents": int(times[i])} for i in best]
    return {"sae": sae.name, "chips": [latents.chip(sae, latent) for latent in picked], "tokens": tokens}


def _latent_meta(site: Site, path: Mapping[str, Any], query: Query) -> dict[str, Any]:
    return meta_view(_sae(site, path, query), site.runs, Query({**query.values, "latent": str(path["latent"])}))


def _lists(site: Site, path: Mapping[str, Any], query: Query) -> dict[str, Any]:
    sae = _sae(site, path, query)
    noted = sorted(site.notes.labels(sae.name).items())
    return {"sae": sae.name, "rows": [{**latents.chip(sae, i), **told} for i, told in noted if i < sae.n_latents]}


HEADS = [
    ("latent", "latent"),
    ("label", "label"),
    ("top_token", "token"),
    ("top_share", "share"),
    ("density", "density"),
    ("largest", "largest"),
    ("entropy", "entropy"),
    ("level", "level"),
    ("parent", "parent"),
    ("twin_cosine", "twin cos"),
    ("match_cosine", "match, cos"),
    ("enc_dec", "enc·dec"),
]

_ONE = "/sae/{sae}/latents/{latent:int}"
PAGES = [
    Page("/", lambda site, path, query: overview.home_view(site.index), "home.html", needs_sae=False),
    Page("/sae/{sae}", _overview, "overview.html"),
    Page("/sae/{sae}/latents", _table, "latents.html", context={"columns": HEADS, "more": table.BESIDE}),
    Page(_ONE, _latent, "latent.html", context={"tabs": TABS}),
    Page(_ONE + "/card", _card, "card.html"),
    Page(_ONE + "/neighbours", lambda s, p, q: latents.neighbours_view(_sae(s, p, q), p["latent"]), "neighbours.html"),
    Page(_ONE + "/together", lambda s, p, q: latents.together_view(_sae(s, p, q), p["latent"]), "together.html"),
    Page("/sae/{sae}/levels", lambda s, p, q: levels_view(_sae(s, p, q), q), "levels.html"),
    Page(_ONE + "/misses", lambda s, p, q: misses_view(_sae(s, p, q), p["latent"], s.live), "misses.html"),
    Page(_ONE + "/effects", lambda s, p, q: effects_view(_sae(s, p, q), p["latent"], s.live), "effects.html"),
    Page(_ONE + "/logits", lambda s, p, q: logits_view(_sae(s, p, q), p["latent"], s.live), "logits.html"),
    Page(_ONE + "/meta", _latent_meta, "meta_part.html"),
    Page(_ONE + "/stitched", lambda s, p, q: stitched_view(_sae(s, p, q), p["latent"], s.runs), "stitched.html"),
    Page("/sae/{sae}/meta", lambda s, p, q: meta_view(_sae(s, p, q), s.runs, q), "meta.html"),
    Page("/stitch", lambda s, p, q: stitch_view(s.index, s.runs, q), "stitch.html", needs_sae=False),
    Page("/sae/{sae}/map", _map, "map.html"),
    Page("/sae/{sae}/chosen", _chosen, "chosen.html"),
    Page("/pair", lambda s, p, q: pair_view(s.index, q), "pair.html", needs_sae=False),
    Page("/compare", lambda s, p, q: compare_view(s.index, q), "compare.html", needs_sae=False),
    Page(
        "/steer",
        lambda s, p, q: steer_view(_sae(s, p, q), s.live, q, s.runs),
        "steer.html",
        context={"edits": EDITS, "positions": POSITIONS},
    ),
    Page("/runs", lambda s, p, q: runs_view(s.runs, q), "runs.html", needs_sae=False),
    Page("/lists", _lists, "lists.html"),
    Page("/search", _search, "search.html"),
    Page("/prompt", lambda s, p, q: prompt_view(_sae(s, p, q), s.live, q), "prompt.html", context={"sorts": SORTS}),
    Page("/help", lambda site, path, query: {}, "help.html", needs_sae=False),
]


def random_latent(site: Site, path: Mapping[str, Any], query: Query, form: Mapping[str, Any]) -> Response:
    """Another latent that fires."""
    sae = _sae(site, path, query)
    alive = np.flatnonzero(sae.stats["firings"])
    chosen = int(np.random.default_rng().choice(alive)) if len(alive) else 0
    return RedirectResponse(f"/sae/{path['sae']}/latents/{chosen}", 303)


def export_table(site: Site, path: Mapping[str, Any], query: Query, form: Mapping[str, Any]) -> Response:
    """The filtered table as a file."""
    from matryo.sae.dashboard.share.tables import table_bytes

    sae = _sae(site, path, query)
    labels, beside = site.notes.labels(sae.name), site.beside(sae.name)
    order = table.sorted_latents(
        sae, query.text("where", longest=1_000), query.text("sort", "-density"), labels, beside
    )
    body, media = table_bytes(sae, order, path["kind"], labels, beside)
    name = f"{sae.name}-latents.{path['kind']}"
    return Response(body, media_type=media, headers={"content-disposition": f'attachment; filename="{name}"'})


def export_latent(site: Site, path: Mapping[str, Any], query: Query, form: Mapping[str, Any]) -> Response:
    """One latent as Neuronpedia's JSON."""
    from matryo.sae.dashboard.share.neuronpedia import neuronpedia

    return JSONResponse(neuronpedia(_sae(site, path, query), path["latent"]))


def map_points(site: Site, path: Mapping[str, Any], query: Query, form: Mapping[str, Any]) -> Response:
    """Of every latent x, y, log₁₀ density, level, and largest cosine with a row of another SAE: float32, little-endian.

    A cosine that was not computed is 0.
    """
    sae = _sae(site, path, query)
    stats = sae.stats
    density = np.log10(np.maximum(stats["density"], 1e-9))
    cosine = np.nan_to_num(table.column(sae, "match_cosine"))
    points = np.stack([stats["x"], stats["y"], density, stats["level"], cosine], 1).astype("<f4")
    return Response(points.tobytes(), media_type="application/octet-stream")


def save_note(site: Site, path: Mapping[str, Any], query: Query, form: Mapping[str, Any]) -> Response:
    """Save a label, tags and a note."""
    asked = Query({key: value for key, value in form.items() if isinstance(value, str)})
    sae = site.index.sae(asked.text("sae"))
    latent = sae.check(asked.whole("latent", -1))
    tags = [tag.strip() for tag in asked.text("tags", longest=200).split(",") if tag.strip()]
    site.notes.save(
        sae.name, latent, asked.text("label", longest=200).strip(), tags, asked.text("note", longest=10_000)
    )
    return JSONResponse(site.notes.get(sae.name, latent))
