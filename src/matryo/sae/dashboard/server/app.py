"""Addresses → views → pages. Every page has a JSON twin: the same address with `.json`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from matryo.sae.dashboard.pages.render import as_json, render
from matryo.sae.dashboard.server import routes
from matryo.sae.dashboard.server.safety import LOCAL, Guard
from matryo.sae.dashboard.server.site import Site
from matryo.sae.dashboard.views.query import Query

log = logging.getLogger(__name__)

STATUS = {400: "That cannot be shown", 404: "There is no such page", 500: "Something went wrong here"}


def make_app(site: Site, hosts: tuple[str, ...] = LOCAL) -> Starlette:
    """The application that shows a site, to requests for these hosts."""
    made: list[Any] = []
    for page in routes.PAGES:
        for suffix in (".json", "") if page.path != "/" else ("",):
            made.append(Route(page.path + suffix, _endpoint(site, page, bool(suffix))))
    made += [
        Route("/index.json", _endpoint(site, routes.PAGES[0], True)),
        Route("/sae/{sae}/random", _call(site, routes.random_latent)),
        Route("/sae/{sae}/latents/export.{kind}", _call(site, routes.export_table)),
        Route("/sae/{sae}/latents/{latent:int}/export.json", _call(site, routes.export_latent)),
        Route("/sae/{sae}/map.bin", _call(site, routes.map_points)),
        Route("/notes", _call(site, routes.save_note), methods=["POST"]),
        Mount("/static", StaticFiles(directory=Path(__file__).parents[1] / "static")),
    ]
    handlers = {HTTPException: _http_error(site), Exception: _crash(site)}
    middleware = [Middleware(Guard, hosts=hosts), Middleware(GZipMiddleware, minimum_size=800, compresslevel=1)]
    return Starlette(routes=made, middleware=middleware, exception_handlers=handlers)  # pyright: ignore[reportArgumentType]


def _endpoint(site: Site, page: routes.Page, as_twin: bool) -> Callable[[Request], Any]:
    """One address: its view, in a thread, as JSON or as HTML."""

    def answer(request: Request) -> Response:
        query = Query(dict(request.query_params))
        try:
            if page.needs_sae:
                site.index.sae(request.path_params.get("sae") or query.text("sae") or site.names[0])
            view = page.view(site, request.path_params, query)
        except routes.NotFoundError as error:
            return _problem(site, request, 404, str(error), as_twin)
        except (ValueError, OSError) as error:
            missing = "is not of" in str(error) or str(error).startswith("unknown SAE")
            return _problem(site, request, 404 if missing else 400, str(error), as_twin)
        if "redirect" in view and not as_twin:
            return RedirectResponse(view["redirect"], 303)
        if as_twin:
            return Response(as_json(view), media_type="application/json")
        return HTMLResponse(render(page.template, view, **_context(site, request, query), **page.context))

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(answer, request)

    return endpoint


def _call(site: Site, function: Callable[..., Response]) -> Callable[[Request], Any]:
    """An address that is no page."""

    async def endpoint(request: Request) -> Response:
        body = (await request.body()).decode("utf-8", "replace") if request.method == "POST" else ""
        form = dict(parse_qsl(body, keep_blank_values=True, max_num_fields=20))
        try:
            return await run_in_threadpool(function, site, request.path_params, Query(dict(request.query_params)), form)
        except (ValueError, OSError) as error:
            return JSONResponse({"error": str(error)}, 400)

    return endpoint


def _context(site: Site, request: Request, query: Query) -> dict[str, Any]:
    """What templates know besides the view."""
    sae = request.path_params.get("sae") or query.values.get("sae") or query.values.get("a") or site.names[0]
    sae = sae if sae in site.index.saes else site.names[0]
    path, asked = request.url.path, f"?{request.url.query}" if request.url.query else ""
    twin = ("/index.json" if path == "/" else f"{path}.json") + asked
    here = next((link for link, _ in site.links(sae) if link.partition("?")[0] == path), path)
    embed = query.values.get("embed") == "1"
    return {"site": site, "sae": sae, "here": here, "twin": twin, "embed": embed, "static": False}


def _problem(site: Site, request: Request, status: int, error: str, as_twin: bool = False) -> Response:
    if as_twin or request.url.path.endswith(".json"):
        return JSONResponse({"error": error}, status)
    view = {"status": status, "title": STATUS.get(status, STATUS[400]), "error": error}
    template = "fragment_error.html" if request.headers.get("x-part") else "error.html"
    return HTMLResponse(render(template, view, **_context(site, request, Query({}))), status)


def _http_error(site: Site) -> Callable[[Request, Any], Any]:
    async def answer(request: Request, error: Any) -> Response:
        if isinstance(error, HTTPException) and 300 <= error.status_code < 400:
            return RedirectResponse((error.headers or {})["location"])
        text = f"{request.url.path[:200]} is no page of this dashboard: choose one in the margin"
        return _problem(site, request, error.status_code, text)

    return answer


def _crash(site: Site) -> Callable[[Request, Exception], Any]:
    async def answer(request: Request, error: Exception) -> Response:
        log.error("%s: %r", request.url.path, error)
        return _problem(site, request, 500, f"{type(error).__name__}: {str(error)[:300]}")

    return answer
