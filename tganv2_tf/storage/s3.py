"""Objects in S3 buckets, accessed with boto3, which is imported on first use."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from tganv2_tf.storage.retries import TEMPORARY_STATUSES, Path, ServerError, with_retries

T = TypeVar("T")

DEFAULTS = {
    "S3_CONNECT_TIMEOUT_MSEC": "5000",
    "S3_REQUEST_TIMEOUT_MSEC": "30000",
    "AWS_RETRY_MODE": "standard",
    "AWS_MAX_ATTEMPTS": "3",
}
ENDPOINTS = ("S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # the last two are boto3's own
CONNECTIONS = 64  # more than there are threads that read shards
CONTENT_TYPE = "application/octet-stream"
KEYS = "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY?)"


def exists(path: Path) -> bool:
    """Returns whether an object or folder exists."""
    return _length(path) is not None or is_folder(path)


def size(path: Path) -> int:
    """Returns the size of an object in bytes."""
    length = _length(path)
    if length is None:
        is_folder(path)  # raises if the bucket does not exist
        raise _missing(os.fspath(path))
    return length


def _length(path: Path) -> int | None:
    """Returns the size of an object in bytes; None if the object or its bucket (HEAD does not say which) is missing."""
    bucket, key = split(path)
    if not key:
        return None
    try:
        return int(_retried(path, lambda client: client.head_object(Bucket=bucket, Key=key))["ContentLength"])
    except FileNotFoundError:
        return None


def is_folder(path: Path) -> bool:
    """Returns whether there are objects below this address; always True for a bucket."""
    bucket, prefix = split(path, folder=True)
    found = _retried(path, lambda client: client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1))
    return not prefix or bool(found.get("Contents"))


def names(folder: Path) -> list[str]:
    """Returns the sorted names of the objects and folders directly below this address."""
    prefix = split(folder, folder=True)[1]
    return sorted({key[len(prefix) :].rstrip("/") for key in keys(folder, delimiter="/")} - {""})


def keys(folder: Path, delimiter: str = "") -> list[str]:
    """Returns the keys of all objects below this address; with a delimiter, only the part up to the first one."""
    bucket, prefix = split(folder, folder=True)

    def list_all(client: Any) -> list[str]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter=delimiter)
        found = [(page.get("Contents", []), page.get("CommonPrefixes", [])) for page in pages]
        return [item.get("Key") or item["Prefix"] for page in found for part in page for item in part]

    return _retried(folder, list_all)


def remove(path: Path) -> None:
    """Removes an object, if it exists."""
    bucket, key = split(path)
    _retried(path, lambda client: client.delete_object(Bucket=bucket, Key=key))


def read(path: Path) -> bytes:
    """Returns the contents of an object."""
    bucket, key = split(path)
    return _retried(path, lambda client: client.get_object(Bucket=bucket, Key=key)["Body"].read())


def download(path: Path, target: str) -> None:
    """Downloads an object to a local file. botocore raises if the body is shorter than announced."""
    bucket, key = split(path)

    def get(client: Any) -> None:
        body = client.get_object(Bucket=bucket, Key=key)["Body"]
        with body, open(target, "wb") as file:
            shutil.copyfileobj(body, file, 1 << 20)

    _retried(path, get)


def upload(source: str, path: Path) -> None:
    """Uploads a local file. The object appears only when it is complete."""
    bucket, key = split(path)
    _transfer(path, lambda manager: manager.upload(source, bucket, key, {"ContentType": CONTENT_TYPE}))


def copy(source: Path, target: Path) -> None:
    """Copies an object on the server."""
    origin = dict(zip(("Bucket", "Key"), split(source)))
    _transfer(source, lambda manager: manager.copy(origin, *split(target)))


def _transfer(path: Path, begin: Callable[[Any], Any]) -> None:
    """Runs a transfer, in several parts if it is large, and waits for it."""

    def transfer(client: Any) -> None:
        from boto3.s3.transfer import TransferConfig, create_transfer_manager

        with create_transfer_manager(client, TransferConfig(preferred_transfer_client="classic")) as manager:
            begin(manager).result()

    _retried(path, transfer)


def split(path: Path, folder: bool = False) -> tuple[str, str]:
    """Splits an address into bucket and key. A folder's key ends with a slash, or is empty for the bucket itself.

    Raises:
      OSError: it is not an `s3://` address.
    """
    scheme, _, rest = os.fspath(path).partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        reason = "not a valid address; valid: s3://BUCKET/KEY, http://HOST/FILE, https://HOST/FILE"
        raise OSError(errno.EINVAL, reason, os.fspath(path))
    if folder:
        key = key.rstrip("/")
        return bucket, f"{key}/" if key else ""
    return bucket, key


class _Clients:
    """One client per process: clients can be shared between threads, but not with forked processes."""

    def __init__(self) -> None:
        self.forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        self._lock, self._client = threading.Lock(), None

    def get(self) -> Any:
        with self._lock:
            self._client = self._client or _new_client()
            return self._client


CLIENTS = _Clients()


def endpoint() -> str | None:
    """Returns the server set in the environment; None means Amazon's."""
    return next(filter(None, map(os.environ.get, ENDPOINTS)), None)


def _new_client() -> Any:
    import boto3
    import boto3.compat
    from botocore.config import Config

    boto3.compat.filter_python_deprecation_warnings()
    logger = logging.getLogger("botocore")
    logger.setLevel(logger.level or logging.WARNING)  # at INFO it logs where it found the keys
    settings = {**DEFAULTS, **{name: value for name in DEFAULTS if (value := os.environ.get(name))}}
    try:
        connect, request, attempts = (int(settings[name]) for name in DEFAULTS if name != "AWS_RETRY_MODE")
    except ValueError as error:
        raise OSError(errno.EINVAL, f"{', '.join(DEFAULTS)}: {error}") from error
    config = Config(
        connect_timeout=connect / 1000,
        read_timeout=request / 1000,
        retries={"mode": settings["AWS_RETRY_MODE"], "total_max_attempts": attempts},
        max_pool_connections=CONNECTIONS,
        # Servers other than Amazon's may not support the newer checksums, or bucket names as host names.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if endpoint() else None,
    )
    # A separate session: boto3's default session is not thread-safe.
    return boto3.session.Session().client(
        "s3",
        region_name=os.environ.get("AWS_REGION") or None,
        endpoint_url=os.environ.get("S3_ENDPOINT") or None,
        verify=os.environ.get("S3_CA_FILE") or None,
        config=config,
    )


def _retried(path: Path, function: Callable[[Any], T]) -> T:
    return with_retries(path, lambda: function(CLIENTS.get()), as_os_error)


def _missing(address: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), address)


def as_os_error(error: Exception, address: str) -> OSError | None:
    """Maps an error of boto3 to the OSError to raise instead; None if it is not one."""
    from botocore import exceptions

    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, exceptions.ClientError):
        code, status = error.response["Error"].get("Code", ""), error.response["ResponseMetadata"]["HTTPStatusCode"]
        reason = error.response["Error"].get("Message", "").rstrip(".") or code
        if code == "NoSuchBucket":
            return FileNotFoundError(errno.ENODEV, "no such bucket", f"s3://{split(address)[0]}")
        if status in (404, 410):
            return _missing(address)
        if status in (401, 403):
            return PermissionError(errno.EACCES, f"{reason} {KEYS}", address)
        temporary = status in TEMPORARY_STATUSES or code == "RequestTimeout"  # RequestTimeout has status 400
        return (ServerError if temporary else OSError)(errno.EIO, reason, address)
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        return PermissionError(errno.EACCES, f"{reason} {KEYS}", address)
    if isinstance(error, (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError)):
        cause = f"{reason} {getattr(error, 'kwargs', {}).get('error', '')}"
        permanent = re.search(r"certificate|\[Errno -\d", cause, re.IGNORECASE)  # negative numbers are DNS errors
        return (OSError if permanent else ServerError)(errno.EIO, reason, address)
    if isinstance(error, (ConnectionError, TimeoutError, socket.timeout)):
        return ServerError(errno.EIO, reason, address)
    if isinstance(error, (exceptions.BotoCoreError, ValueError)):  # ValueError: an endpoint without a scheme
        return OSError(errno.EINVAL, reason, address)
    return None
