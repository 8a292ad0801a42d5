"""Read-only access to files over http(s), with the standard library."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import urllib.error
import urllib.request

from tganv2_tf.storage.retries import TEMPORARY_STATUSES, ServerError, with_retries

TIMEOUT = 30.0  # seconds without a byte


def read(address: str) -> bytes:
    """Returns the contents of a file."""

    def get() -> bytes:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as response:
            return response.read()

    return with_retries(address, get, as_os_error)


def exists(address: str) -> bool:
    """Returns whether a file exists."""
    try:
        size(address)
    except FileNotFoundError:
        return False
    return True


def size(address: str) -> int:
    """Returns the size of a file in bytes."""

    def head() -> int:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            length = response.headers.get("Content-Length")
        if length is None:
            raise OSError(errno.EOPNOTSUPP, "its server does not report file sizes", address)
        return int(length)

    return with_retries(address, head, as_os_error)


def as_os_error(error: Exception, address: str) -> OSError | None:
    """Maps an error of urllib to the OSError to raise instead; None if it is not one."""
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (404, 410):
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), address)
        if error.code in (401, 403):
            return PermissionError(errno.EACCES, str(error), address)
        kind = ServerError if error.code in TEMPORARY_STATUSES else OSError
        return kind(errno.EIO, str(error), address)
    if isinstance(error, urllib.error.URLError):
        # DNS errors (negative numbers) and certificate errors (other numbers) are not temporary.
        permanent = isinstance(error.reason, OSError) and error.reason.errno in (None, 1, -2, -3, -5)
        return (OSError if permanent else ServerError)(errno.EIO, str(error.reason), address)
    if isinstance(error, (http.client.HTTPException, ConnectionError, TimeoutError, socket.timeout)):
        return ServerError(errno.EIO, str(error) or type(error).__name__, address)
    return None
