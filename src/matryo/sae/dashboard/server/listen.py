"""Listening: one socket, one server, one line that says where."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from matryo.sae.dashboard.index.opened import Index


class Listening(Protocol):
    """What the command was told."""

    @property
    def host(self) -> str: ...  # noqa: D102
    @property
    def port(self) -> int: ...  # noqa: D102
    @property
    def model(self) -> bool: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def lm_dtype(self) -> str: ...  # noqa: D102


def listen(index: Index, runs: Path, options: Listening, say: Callable[..., Any]) -> None:
    """Serve until interrupted.

    Raises:
        OSError: the port is in use, or not this user's to take.
    """
    taken = _socket(options.host, options.port)
    import uvicorn

    from matryo.sae.dashboard.server.app import make_app
    from matryo.sae.dashboard.server.safety import LOCAL, READ_BYTES
    from matryo.sae.dashboard.server.site import Site

    live = None
    if options.model:
        from matryo.sae.dashboard.server.live import Live

        live = Live(index, options.device, options.lm_dtype)
    app = make_app(Site(index, runs, live), tuple({*LOCAL, options.host}))
    host, port = taken.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    limits = {"http": "h11", "h11_max_incomplete_event_size": READ_BYTES}
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", **limits)
    say(f"dashboard: {url} (Ctrl-C ends it)", url=url)
    if live is not None:
        live.begin()
    uvicorn.Server(config).run(sockets=[taken])


def _socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(128)  # whoever reads the address may come before the server is up
    except (OSError, OverflowError) as error:
        made.close()
        code = getattr(error, "errno", None)
        reason = f"port {port} is in use: give another --port, or 0 for any" if code == errno.EADDRINUSE else str(error)
        raise OSError(f"cannot listen on {host}:{port}: {reason}") from None
    return made
