"""What stands before Gradio: it lets through short requests to the doors that the page uses."""

from __future__ import annotations

from collections.abc import Awaitable, MutableMapping
from typing import Any, Callable

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

# Gradio has many more: uploads, recordings, a proxy. The page needs none of them.
POSTS = ("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset")
READS = ("GET", "HEAD")
CLOSED = ("/gradio_api/proxy=", "/gradio_api/file=http")


class Gate:
    """ASGI middleware. A request is read to its end before anything is done with it, and no further than it may be."""

    def __init__(self, application: Application, max_bytes: int) -> None:
        """Args are the application behind it, and the longest body."""
        self._application, self._max_bytes = application, max_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers a request, or hands it on; see ASGI."""
        if scope["type"] == "lifespan":
            return await self._application(scope, receive, send)
        if scope["type"] != "http":
            return None  # a web socket, which nothing here opens
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
                return await _refuse(send, 413, f"a request of more than {self._max_bytes:,} bytes; valid: up to those")
        # Only now: a connection that is closed with something unread in it may take the answer with it.
        if method not in READS and (method != "POST" or path.rstrip("/") not in POSTS):
            return await _refuse(send, 405, f"{method} {path[:100]}: not offered here")
        if path.startswith(CLOSED):
            return await _refuse(send, 403, f"{path[:100]}: not offered here")
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return await self._application(scope, replay, send)


async def _refuse(send: Send, status: int, text: str) -> None:
    """A line of text, after which the connection is closed: the rest of the request is not read."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode(errors="replace")})
