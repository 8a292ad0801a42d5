"""Buckets of a real S3-compatible server on loopback that can be made to fail."""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Not you.</Message></Error>"


BROKEN = 0  # a fault: only half of the answer is sent


class Proxy(http.server.BaseHTTPRequestHandler):
    """Forwards requests to `target`, except for the next ones, which receive the statuses in `faults` instead."""

    target = ""
    faults: list[int] = []  # noqa: RUF012 (there is only one proxy)
    answered: list[int] = []  # noqa: RUF012
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        broken = self.faults[:1] == [BROKEN] and self.command == "GET" and self.faults.pop(0) == BROKEN
        if self.faults and not broken:
            status, headers, content = self.faults.pop(0), {}, DENIED
            self.answered.append(status)
        else:
            request = urllib.request.Request(self.target + self.path, body or None, dict(self.headers))
            request.method = self.command
            try:
                with urllib.request.urlopen(request) as answer:
                    status, headers, content = answer.status, dict(answer.headers), answer.read()
            except urllib.error.HTTPError as error:
                status, headers, content = error.code, dict(error.headers), error.read()
        self.send_response(status)
        length = headers.get("Content-Length", str(len(content))) if self.command == "HEAD" else str(len(content))
        for name, value in {**headers, "Content-Length": length}.items():
            if name not in ("Connection", "Date", "Server", "Transfer-Encoding"):
                self.send_header(name, value)
        self.end_headers()
        if broken:
            self.answered.append(BROKEN)
            self.close_connection = True
            content = content[: len(content) // 2]
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *words: Any) -> None:
        pass


@functools.cache
def endpoint() -> str:
    """Address of the server of this process, behind the proxy; a single one, because clients are cached."""
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    Proxy.target = "http://{}:{}".format(*moto.get_host_and_port())
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{proxy.server_port}"


@contextlib.contextmanager
def bucket(name: str) -> Iterator[str]:
    """Creates a bucket, visible to this process and its children; returns its address.

    Args:
      name: Unique per test file: runs are locked by their address, whichever server serves it.
    """
    import boto3

    keys = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3_ENDPOINT", endpoint())
        for key, value in keys.items():
            patch.setenv(f"AWS_{key}", value)
        boto3.client("s3", endpoint_url=endpoint()).create_bucket(Bucket=name)
        yield f"s3://{name}"
