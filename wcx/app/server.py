"""Serving the page: on this machine alone unless told otherwise, and nothing is left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from wcx.errors import WcxError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from gradio import Blocks

ALONE = ("127.0.0.1", "localhost", "::1")
_stopped: list[int] = []  # signals that came before the server was there


def serve(page: Blocks, host: str, port: int) -> None:
    """Serve a page until it is stopped.

    Args:
        page: made while its `folder` is there.
        host: an address of this machine.
        port: 0 is any that is free.

    Raises:
        WcxError: no such address, or one that is taken.
    """
    import uvicorn

    with listening(host, port) as listener, contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        config = uvicorn.Config(application(page, host), log_level="warning", timeout_graceful_shutdown=1)
        server, log = uvicorn.Server(config), logging.getLogger("uvicorn.error")

        def is_running(_: logging.LogRecord) -> bool:  # afterwards it has a traceback for every page that is open
            return not server.should_exit

        log.addFilter(is_running)
        stack.callback(log.removeFilter, is_running)
        name = f"[{host}]" if ":" in host else host
        # run() catches signals only once it has made a loop, which an earlier one would leave half made
        with server.capture_signals():
            if _stopped:
                return
            print(f"http://{name}:{listener.getsockname()[1]} (Ctrl-C stops it)", flush=True)
            server.run(sockets=[listener])


def application(page: Blocks, host: str) -> FastAPI:
    """Return the page as an application that serves nothing else; on this machine alone, it answers to no other name."""
    import fastapi
    import gradio as gr
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from wcx.app import html
    from wcx.app.page import LARGEST

    service = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if host in ALONE:
        service.add_middleware(TrustedHostMiddleware, allowed_hosts=list(ALONE))
    settings: dict[str, Any] = {"footer_links": [], "run_history": False, "ssr_mode": False, "pwa": False}
    settings |= {"enable_monitoring": False, "mcp_server": False, "max_file_size": LARGEST, "css": html.style()}
    return gr.mount_gradio_app(service, page, "/", server_name=host, show_error=False, **settings)


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """Let gradio, from its import on, keep its files in a folder that goes with this process, and tell nobody of itself."""

    def stop(number: int, _: object) -> None:
        _stopped.append(number)  # for a callback or destructor that runs just now swallows what is raised
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(0)

    _stopped.clear()
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    with TemporaryDirectory(prefix="wcx-app-") as path:
        os.environ |= {"GRADIO_TEMP_DIR": path, "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            yield path
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen at an address.

    Raises:
        WcxError: no such address, or one that is taken.
    """
    if type(port) is not int or not 0 <= port < 2**16:
        raise WcxError(f"port={port!r}: give a whole number from 0 (any that is free) to 65535.")
    try:
        kind = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=kind)
    except OSError as error:
        raise WcxError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; give host=... or port=..."
        ) from error
    with listener:
        yield listener
