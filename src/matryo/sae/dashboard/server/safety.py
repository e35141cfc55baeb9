"""What every request and answer passes: known hosts, own origin, small bodies, headers that forbid the rest."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'self'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}

BODY_BYTES = 100_000
"""Largest body of a request: a note, or a prompt."""

ASKED_BYTES = 200_000
"""Longest query of an address: two prompts of 8,192 characters, each of which may take nine bytes."""

READ_BYTES = 2**24
"""Longest head of a request that is read at all, so that one which is too long can be told so."""

LOCAL = ("127.0.0.1", "localhost", "::1")


class Guard:
    """Refuses requests for other hosts or from other origins, and bodies that are too large; adds headers.

    The Host check stops pages of other sites that point a name of theirs at this machine (DNS rebinding); the Origin
    check stops their forms and scripts.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] = LOCAL) -> None:
        self.app, self.hosts = app, {host.casefold() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, headers = time.perf_counter(), dict(scope["headers"])

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = f"app;dur={1000 * (time.perf_counter() - began):.2f}".encode()
                message["headers"] = [*message["headers"], *HEADERS.items(), (b"server-timing", told)]
            await send(message)

        refused = self._refuse(scope["method"], headers, len(scope.get("query_string", b"")))
        if refused:
            status, reason = refused
            await JSONResponse({"error": reason}, status)(scope, receive, answer)
            return
        await self.app(scope, receive, answer)

    def _refuse(self, method: str, headers: dict[bytes, bytes], asked: int) -> tuple[int, str] | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if _name(f"//{host}") not in self.hosts:
            return 421, f"host {host[:80]!r} is not served here; expected {', '.join(sorted(self.hosts))}"
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") not in (f"http://{host}", f"https://{host}"):
            return 403, "this request comes from another site; expected the dashboard's own pages"
        if method not in ("GET", "HEAD", "POST"):
            return 405, f"method {method[:20]} is not known here; expected GET or POST"
        if method == "POST" and origin is None:
            return 403, "this request has no Origin; expected one from the dashboard's own pages"
        if asked > ASKED_BYTES:
            return 414, f"the address asks with {asked:,} bytes; expected at most {ASKED_BYTES:,}: give a shorter text"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > BODY_BYTES or b"transfer-encoding" in headers:
            return 413, f"the request's body is too large or of unknown length; expected at most {BODY_BYTES:,} bytes"
        return None


def _name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").casefold()
    except ValueError:
        return ""
