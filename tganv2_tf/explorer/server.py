"""Serves the page until somebody ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tganv2_tf import lanes
from tganv2_tf.errors import ConfigError, UserError

if TYPE_CHECKING:
    from tganv2_tf.explorer.gate import Application

GRACE_SECONDS = 1  # for answers under way when it ends


def listen(host: str, port: int) -> socket.socket:
    """A socket that browsers may knock at from now on; port 0 is any that is free.

    Raises:
      ConfigError: the port is in use, or the host is not this one.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"--host={host}: no such host; valid: 127.0.0.1, or 0.0.0.0 for the whole network") from error
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the port of an explorer that has just ended
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"--host={host} --port={port}: {reason}; valid: another port, or 0 for a free one") from error
    listener.listen()
    return listener


def address(listener: socket.socket) -> str:
    """What to type into the browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def load_gradio() -> None:
    """Imports Gradio with all that it would tell its makers switched off.

    Raises:
      UserError: it is not installed.
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
    """Answers browsers until Ctrl-C or SIGTERM, which raise KeyboardInterrupt when all is put away.

    Args:
      application: what answers.
      listener: where they knock.
      max_connections: at a time; whoever comes beyond them is told so (status 503).
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
    """Whatever Gradio keeps in files, it keeps in a folder that goes with the explorer."""
    with tempfile.TemporaryDirectory(prefix="tganv2-explorer-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield
