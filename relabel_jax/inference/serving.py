"""Serves the page of the demo to this machine alone.

A web page in the user's browser can send requests to any address, and its owner can let a name of
his own lead to 127.0.0.1 (DNS rebinding). So each request must call this machine by its own name,
and must come from this page or from no page.
"""

import contextlib
import pathlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from relabel_jax.errors import InputError

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")
_PORTS = range(7860, 7960)
_START_TIMEOUT_S = 60.0
_STYLE = pathlib.Path(__file__).with_name("demo.css")
# Fonts that need no download.
_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_COLORS = {  # as on the report's page, light and dark
    "body_background_fill": "#faf8f4",
    "body_background_fill_dark": "#14171a",
    "body_text_color": "#22262b",
    "body_text_color_dark": "#e9e6e0",
    "body_text_color_subdued": "#5f666e",
    "body_text_color_subdued_dark": "#9aa1a8",
    "block_background_fill": "#ffffff",
    "block_background_fill_dark": "#1c2024",
    "border_color_primary": "#e5e0d7",
    "border_color_primary_dark": "#30363c",
    "color_accent": "#14766e",
    "error_border_color": "#c96f14",
    "error_border_color_dark": "#e0923d",
    "error_background_fill": "#f7ecdf",
    "error_background_fill_dark": "#2b241c",
    "error_text_color": "#22262b",
    "error_text_color_dark": "#e9e6e0",
}

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


class LocalOnly:
    """Refuses requests to another host, and requests from pages of another origin.

    It wraps an ASGI application.

    Args:
      app: the application.
      port: the port that it is served on.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], port: int):
        self._app = app
        self._hosts = {f"{name}:{port}".encode() for name in _NAMES}
        self._origins = {b"http://" + host for host in self._hosts}

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Answers one request, or passes it on."""
        if scope["type"] == "lifespan" or self._is_local(scope["headers"]):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": b"only for this machine\n"})

    def _is_local(self, headers: list[tuple[bytes, bytes]]) -> bool:
        hosts = [value.lower() for name, value in headers if name == b"host"]
        origins = {value.lower() for name, value in headers if name == b"origin"}
        return len(hosts) == 1 and hosts[0] in self._hosts and origins <= self._origins


@contextlib.contextmanager
def serving(page: Any, port: int | None) -> Iterator[str]:
    """Serves a page within the block and gives its address.

    Args:
      page: a `gradio.Blocks`; see `demo.make_page`.
      port: the port; None for the first free one from 7860 on.

    Raises:
      InputError: the port is taken.
    """
    import fastapi  # make_page has checked that gradio is installed, which needs these
    import gradio
    import uvicorn

    with _listening(port) as listener:
        port = listener.getsockname()[1]
        app = gradio.mount_gradio_app(
            fastapi.FastAPI(openapi_url=None),
            page,
            "/",
            server_name=HOST,
            server_port=port,
            ssr_mode=False,
            run_history=False,
            footer_links=[],
            css_paths=_STYLE,
            theme=gradio.themes.Base(font=_FONT, radius_size="lg").set(**_COLORS),
        )
        # An open page holds a connection, which uvicorn would wait for, and complain about.
        config = uvicorn.Config(
            LocalOnly(app, port), log_level="critical", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            _wait_until_started(server, thread)
            yield f"http://{HOST}:{port}/"
        finally:
            server.should_exit = True
            thread.join(timeout=5)


def _wait_until_started(server: Any, thread: threading.Thread) -> None:
    end = time.monotonic() + _START_TIMEOUT_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > end:
            raise InputError("the page cannot be served; see the messages above")
        time.sleep(0.01)


@contextlib.contextmanager
def _listening(port: int | None) -> Iterator[socket.socket]:
    """Listens on a port.

    Raises:
      InputError: it is taken, or all are.
    """
    listener = None
    for each in _PORTS if port is None else (port,):
        try:
            listener = socket.create_server((HOST, each))
            break
        except OSError as error:
            problem = error
    if listener is None:
        raise InputError(
            f"--port={port or _PORTS[0]}: is taken or not allowed; give another"
        ) from problem
    with listener:
        yield listener
