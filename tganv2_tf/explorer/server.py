"""Web server of the explorer."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.runtime import lanes

if TYPE_CHECKING:
    from tganv2_tf.explorer.gate import Application

GRACE_SECONDS = 1  # to finish current responses at shutdown


def listen(host: str, port: int) -> socket.socket:
    """Opens a listening socket; port 0 = any free port.

    Raises:
      ConfigError: the port is in use, or the host is not this machine.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"--host={host}: no such host; valid: 127.0.0.1, or 0.0.0.0 for the whole network") from error
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # allows the port of an explorer that has just ended
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"--host={host} --port={port}: {reason}; valid: another port, or 0 for a free one") from error
    listener.listen()
    return listener


def address(listener: socket.socket) -> str:
    """Returns the URL of the page."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def load_gradio() -> None:
    """Imports Gradio with telemetry disabled.

    Raises:
      UserError: Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        install = lanes.install_command("explore")
        raise UserError(f"Gradio is not installed: {install}, with Python 3.10 or newer") from error


def serve(application: Application, listener: socket.socket, max_connections: int) -> None:
    """Serves until Ctrl-C or SIGTERM, and raises KeyboardInterrupt after the shutdown.

    Args:
      application: the web application.
      listener: the listening socket.
      max_connections: maximum number of connections; further ones receive status 503.
    """
    import uvicorn

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config = uvicorn.Config(
        application,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=max_connections,
    )
    uvicorn.Server(config).run(sockets=[listener])


@contextlib.contextmanager
def temporary_files() -> Iterator[None]:
    """Makes Gradio keep its files in a temporary folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="tganv2-explorer-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield
