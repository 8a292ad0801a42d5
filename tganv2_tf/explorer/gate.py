"""Request filter in front of Gradio: it passes only short requests to the routes that the page uses."""

from __future__ import annotations

from collections.abc import Awaitable, MutableMapping
from typing import Any, Callable

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

# Gradio has many more routes (uploads, recordings, a proxy), which the page does not need.
POSTS = ("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset")
READS = ("GET", "HEAD")
BLOCKED = ("/gradio_api/proxy=", "/gradio_api/file=http")


class RequestFilter:
    """ASGI middleware. It reads a request completely, up to the maximum size, before handling it."""

    def __init__(self, application: Application, max_bytes: int) -> None:
        """Args are the wrapped application and the maximum size of a body."""
        self._application, self._max_bytes = application, max_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Rejects a request or passes it on; see ASGI."""
        if scope["type"] == "lifespan":
            return await self._application(scope, receive, send)
        if scope["type"] != "http":
            return None  # web sockets are not used
        path, method = scope["path"], scope["method"]
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                return await _reject(send, 413, f"request too large; valid: up to {self._max_bytes:,} bytes")
        # Not before the body is read: closing a connection with unread data may discard the response.
        if method not in READS and (method != "POST" or path.rstrip("/") not in POSTS):
            return await _reject(send, 405, f"{method} {path[:100]}: not available")
        if path.startswith(BLOCKED):
            return await _reject(send, 403, f"{path[:100]}: not available")
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return await self._application(scope, replay, send)


async def _reject(send: Send, status: int, text: str) -> None:
    """Sends a line of text and closes the connection; the rest of the request is not read."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode(errors="replace")})
