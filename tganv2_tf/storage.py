"""Files by their addresses: paths of this machine, `s3://BUCKET/KEY` and, to be read only, `http(s)://`.

Addresses go through the file systems of tensorflow-io, which is imported where the first of them is used. What it says
cannot all be believed: where a server does not answer, its S3 plugin calls a file missing and a folder empty. Only what
it says of buckets is the truth, so a file counts as missing where it is so before and after the bucket was asked for.
Its http plugin reads nothing but parts of files, which not every server gives, so http is the standard library's here.

Faults that pass are waited out, with the pauses of `BACK_OFF`. What remains is an OSError.

Variables of the environment that the S3 plugin reads: S3_ENDPOINT (with its scheme), AWS_REGION, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, S3_CA_FILE, and those of `DEFAULTS`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import os
import pathlib
import re
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, Union

from absl import logging

Path = Union[str, "os.PathLike[str]"]
T = TypeVar("T")

BACK_OFF = (1.0, 2.0, 4.0, 8.0, 16.0, 16.0)  # seconds before each new attempt
HTTP_TIMEOUT = 30.0  # seconds without a byte
# The plugin's own: five minutes to connect, eleven times over.
DEFAULTS = {
    "S3_CONNECT_TIMEOUT_MSEC": "5000",
    "S3_REQUEST_TIMEOUT_MSEC": "30000",
    "AWS_RETRY_MODE": "standard",
    "AWS_MAX_ATTEMPTS": "3",
}
# curl's numbers of what does not pass: the address cannot be parsed, no such host, certificates.
_LASTING_CURL = {3, 5, 6, 35, 51, 53, 54, 58, 59, 60, 77}
_PASSING_STATUSES = {408, 429, 500, 502, 503, 504}


def is_remote(path: Path) -> bool:
    """Whether it is an address, `SCHEME://...`, and no path of this machine."""
    return "://" in os.fspath(path)


def is_read_only(path: Path) -> bool:
    """Whether it is an http(s) address."""
    return os.fspath(path).startswith(("http://", "https://"))


def join(folder: Path, *names: str) -> str:
    """The path or address of something in a folder."""
    if is_remote(folder):
        return "/".join([os.fspath(folder).rstrip("/"), *names])
    return os.path.join(os.fspath(folder), *names)


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; of folders, which http does not have, the answer is no there."""
    if not is_remote(path):
        return os.path.exists(path)
    try:
        _status(path)
    except FileNotFoundError as error:
        if error.errno == errno.ENODEV:
            raise
        return False
    return True


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; without files in it, there is none in a bucket."""
    if not is_remote(path):
        return os.path.isdir(path)
    return exists(path) and bool(_status(path).is_directory)


def size(path: Path) -> int:
    """Bytes of a file."""
    return _status(path).length if is_remote(path) else os.path.getsize(path)


def names(folder: Path) -> list[str]:
    """Sorted names of what is in a folder; none where there is no such folder, and over http."""
    if not is_remote(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    if is_read_only(folder):
        return []
    address = _address(folder)
    try:
        return sorted({name.rstrip("/") for name in _retried(address, lambda: _gfile().listdir(address))})
    except FileNotFoundError as error:
        if error.errno == errno.ENODEV:
            raise
        return []


def make_folder(path: Path) -> None:
    """Makes a folder and those above it; a bucket has none, so nothing happens there.

    Raises:
      OSError: it cannot be made, or nothing can be written over http.
    """
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)
    else:
        _refuse_http(path)


def remove(path: Path) -> None:
    """Removes a file."""
    if not is_remote(path):
        os.remove(path)
        return
    _refuse_http(path)
    address = _address(path)
    _retried(address, lambda: _gfile().remove(address))


def remove_folder(path: Path) -> None:
    """Removes a folder and all that is in it."""
    if not is_remote(path):
        shutil.rmtree(path)
        return
    _refuse_http(path)
    for name in names(path):
        inside = join(path, name)
        (remove_folder if is_folder(inside) else remove)(inside)


def unique() -> str:
    """A word for a temporary name; in a folder that machines share, numbers of processes come twice."""
    return uuid.uuid4().hex[:12]


def copy(source: Path, target: Path) -> None:
    """Copies a file; `target` appears only when it is whole."""
    _refuse_http(target)
    if not is_remote(target):
        path = pathlib.Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.{unique()}{path.suffix}")
        try:
            _fetch(source, temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    elif is_remote(source):  # the plugin's way of copying divides by zero where nothing was uploaded before
        with tempfile.TemporaryDirectory() as folder:
            temporary = pathlib.Path(folder) / "file"
            _fetch(source, temporary)
            copy(temporary, target)
    else:
        local, address = os.fspath(source), _address(target)
        if not os.path.isfile(local):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), local)
        _retried(address, lambda: _gfile().copy(local, address, overwrite=True), writes=True)


@contextlib.contextmanager
def on_disk(path: Path) -> Iterator[str]:
    """The path of a file on this machine: of itself, or of a copy that goes with the block."""
    if not is_remote(path):
        yield os.fspath(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copied = os.path.join(folder, os.fspath(path).rpartition("/")[2])
        copy(path, copied)
        yield copied


def read_bytes(path: Path) -> bytes:
    """All that is in a file."""
    if not is_remote(path):
        return pathlib.Path(path).read_bytes()
    address = _address(path)
    if is_read_only(path):
        return _retried(address, lambda: _read_http(address))

    def read() -> bytes:
        with _gfile().GFile(address, "rb") as file:
            content = file.read()
        _check_length(address, len(content))
        return content

    return _retried(address, read)


def read_text(path: Path) -> str:
    """All that is in a file of UTF-8."""
    return read_bytes(path).decode("utf-8")


def copy_folder(source: Path, target: str, last: str) -> None:
    """Copies what is in a folder of this machine to an address, the file of the name `last` in the end."""
    folder = pathlib.Path(source)
    files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    for name in sorted(files, key=lambda name: (name == last, name)):
        copy(folder / name, join(target, *name.split("/")))


def patiently(path: Path, function: Callable[[], T]) -> T:
    """What a function gives that uses something at `path`; faults of its server that pass are waited out.

    To be put around what TensorFlow does with an address by itself. Errors remain what they are.
    """
    if is_remote(path) and not is_read_only(path):
        _gfile()
    pauses = iter(BACK_OFF if is_remote(path) else ())
    while True:
        try:
            return function()
        except Exception as error:  # noqa: PERF203 (nothing is tried often)
            pause = next(pauses, None) if is_transient(error) else None
            if pause is None:
                raise
            logging.warning("%s: %s; trying again in %g s", path, reason(error), pause)
            time.sleep(pause)


def is_transient(error: BaseException) -> bool:
    """Whether what a file system of TensorFlow, or http, said may be otherwise when it is asked again.

    Not so the errors of this module, which has asked again.
    """
    if isinstance(error, _AgainError):
        return True
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _PASSING_STATUSES
    if isinstance(error, urllib.error.URLError):
        return not (isinstance(error.reason, OSError) and error.reason.errno in (None, -2, -3, -5))  # DNS, certificates
    if isinstance(error, (http.client.HTTPException, ConnectionError, TimeoutError, socket.timeout)):
        return True
    if isinstance(error, OSError):
        return False
    message, code = str(error), getattr(error, "error_code", None)
    curl = re.search(r"curlCode: (\d+)|Unable to perform \((\d+)\)", message)
    if curl:
        return int(curl[1] or curl[2]) not in _LASTING_CURL
    # By their numbers, for TensorFlow may not be there: UNKNOWN, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE. The plugins
    # have the last two from statuses of 500 and more, and the first from those that have no code of their own.
    if code in (2, 8):
        return bool(re.search(r"SlowDown|Throttl|TooManyRequests|RequestTimeout|No response body", message))
    return code == 14 or (code == 13 and bool(re.search(r"HTTP|response|Slow|Unavailable|InternalError", message)))


def reason(error: BaseException) -> str:
    """What a file system said, in one line, without TensorFlow's names of its own."""
    said = getattr(error, "message", None) or str(error)
    said = re.sub(r"\{\{function_node .*?\}\}|\[Op:.*|\[\[.*", "", said, flags=re.DOTALL)
    said = " ".join(said.split()).lstrip(": ").rstrip(".")
    return said or type(error).__name__


@functools.cache
def _gfile() -> Any:
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    import tensorflow as tf
    import tensorflow_io  # noqa: F401 (makes the schemes known)

    return tf.io.gfile


def _address(path: Path) -> str:
    """With a slash behind a bare bucket, without which the plugin finds none."""
    address = os.fspath(path)
    return f"{address}/" if address.startswith("s3://") and "/" not in address[len("s3://") :] else address


def _is_bucket(address: str) -> bool:
    return bool(re.fullmatch(r"s3://[^/]*/", address))


def _refuse_http(path: Path) -> None:
    if is_read_only(path):
        raise OSError(
            errno.EROFS, "nothing can be written over http; name a folder of this machine or s3://", str(path)
        )


class _Status:
    """Of a file over http."""

    def __init__(self, length: int) -> None:
        self.length, self.is_directory = length, False


def _status(path: Path) -> Any:
    address = _address(path)
    if is_read_only(path):
        return _Status(_retried(address, lambda: _http_size(address)))
    return _retried(address, lambda: _gfile().stat(address))


def _read_http(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=HTTP_TIMEOUT) as response:
        return response.read()


def _http_size(address: str) -> int:
    with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=HTTP_TIMEOUT) as response:
        length = response.headers.get("Content-Length")
    if length is None:
        raise OSError(errno.EOPNOTSUPP, "its server does not tell how long files are", address)
    return int(length)


def _fetch(source: Path, target: pathlib.Path) -> None:
    """Copies a file to a local one, which nobody has seen yet."""
    if not is_remote(source):
        shutil.copyfile(source, target)
        return
    address = _address(source)
    if is_read_only(source):
        target.write_bytes(read_bytes(source))
        return

    def fetch() -> None:
        _gfile().copy(address, os.fspath(target), overwrite=True)
        _check_length(address, target.stat().st_size)

    _retried(address, fetch)


def _check_length(address: str, length: int) -> None:
    """Raises _AgainError where a file came in part, or empty, as none is that we read.

    The plugin takes for whole what has broken off on its way.
    """
    if not length or _gfile().stat(address).length != length:
        raise _AgainError("it did not come whole, or is empty")


def _retried(address: str, function: Callable[[], T], writes: bool = False) -> T:
    """What the function gives; faults that pass are waited out.

    Raises:
      FileNotFoundError: there is no such file, with ENODEV no such bucket.
      PermissionError: the server refuses.
      OSError: all else.
    """

    def once() -> T:
        try:
            return function()
        except Exception as error:
            if address.startswith("s3://") and _says_missing(error) and not writes:
                _make_sure_of_absence(address, function)
            raise

    try:
        return patiently(address, once)
    except Exception as error:
        raise _as_os_error(error, address) from error


class _AgainError(Exception):
    """What the plugin said cannot be believed."""


def _says_missing(error: BaseException) -> bool:
    return getattr(error, "error_code", None) == 5 or isinstance(error, FileNotFoundError)


def _make_sure_of_absence(address: str, function: Callable[[], Any]) -> None:
    """Returns where something is missing indeed; raises what is wrong with the server, or _AgainError."""
    bucket = "/".join(address.split("/")[:3]) + "/"
    try:
        _gfile().stat(bucket)  # here the plugin tells the truth
    except Exception as error:
        if _says_missing(error):
            raise FileNotFoundError(errno.ENODEV, "no such bucket", bucket) from error
        raise
    try:  # the server answers, so now the plugin is to be believed
        function()
    except Exception as error:
        if not _says_missing(error):
            raise
    else:
        raise _AgainError("it was said to be missing, and is not")


def _as_os_error(error: BaseException, address: str) -> OSError:
    if isinstance(error, FileNotFoundError) and error.errno == errno.ENODEV:
        return error
    said = reason(error)
    status = error.code if isinstance(error, urllib.error.HTTPError) else None
    code = getattr(error, "error_code", None)
    if "NoSuchBucket" in said or (_says_missing(error) and _is_bucket(address)):
        return FileNotFoundError(errno.ENODEV, "no such bucket", address)
    if _says_missing(error) or status in (404, 410):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), address)
    if code in (7, 16) or status in (401, 403):
        said = said if said and "No response body" not in said else "the server refuses"
        return PermissionError(errno.EACCES, f"{said} (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY?)", address)
    if isinstance(error, urllib.error.URLError) and not status:
        said = str(error.reason)
    if isinstance(error, OSError) and error.strerror:
        said = error.strerror
    return OSError(errno.EIO, said, address)
