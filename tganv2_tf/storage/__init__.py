"""File access by local path, `s3://BUCKET/KEY`, or (read-only) `http(s)://` address.

Buckets are accessed with boto3, which is imported when the first `s3://` address is used; http with the standard
library. Temporary server errors are retried after the pauses of `retries.BACK_OFF`. All errors are OSErrors:
FileNotFoundError (`errno.ENODEV` if the bucket does not exist), PermissionError, or `ServerError` if the server is
still unavailable after all attempts.

Environment variables: S3_ENDPOINT, S3_CA_FILE, those of `s3.DEFAULTS`, and all that boto3 reads, such as AWS_REGION,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator

from tganv2_tf.storage import retries, s3, web
from tganv2_tf.storage.retries import Path

ServerError, is_transient = retries.ServerError, retries.is_transient


def is_remote(path: Path) -> bool:
    """Returns whether it is an address, `SCHEME://...`, rather than a local path."""
    return "://" in os.fspath(path)


def is_read_only(path: Path) -> bool:
    """Returns whether it is an http(s) address."""
    return os.fspath(path).startswith(("http://", "https://"))


def join(folder: Path, *names: str) -> str:
    """Returns the path or address of a file in a folder."""
    if is_remote(folder):
        return "/".join([os.fspath(folder).rstrip("/"), *names])
    return os.path.join(os.fspath(folder), *names)


def exists(path: Path) -> bool:
    """Returns whether a file or folder exists. False for folders over http, which has none."""
    if not is_remote(path):
        return os.path.exists(path)
    return web.exists(os.fspath(path)) if is_read_only(path) else s3.exists(path)


def is_folder(path: Path) -> bool:
    """Returns whether a folder exists. In a bucket, folders exist if they contain files; the bucket itself is one."""
    if not is_remote(path):
        return os.path.isdir(path)
    return not is_read_only(path) and s3.is_folder(path)


def size(path: Path) -> int:
    """Returns the size of a file in bytes."""
    if not is_remote(path):
        return os.path.getsize(path)
    return web.size(os.fspath(path)) if is_read_only(path) else s3.size(path)


def names(folder: Path) -> list[str]:
    """Returns the sorted names of the files and folders in a folder; empty if it does not exist, and over http."""
    if not is_remote(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [] if is_read_only(folder) else s3.names(folder)


def make_folder(path: Path) -> None:
    """Creates a folder and its parents. Does nothing in a bucket, which has no folders.

    Raises:
      OSError: it cannot be created, or the address is read-only.
    """
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)
    else:
        _refuse_http(path)


def remove(path: Path) -> None:
    """Removes a file. In a bucket it is no error if the file does not exist."""
    if not is_remote(path):
        os.remove(path)
        return
    _refuse_http(path)
    s3.remove(path)


def remove_folder(path: Path) -> None:
    """Removes a folder and everything in it."""
    if not is_remote(path):
        shutil.rmtree(path)
        return
    _refuse_http(path)
    for key in s3.keys(path):
        s3.remove(f"s3://{s3.split(path)[0]}/{key}")


def unique() -> str:
    """Returns a random word for a temporary name. Process ids are not unique in a folder shared by machines."""
    return uuid.uuid4().hex[:12]


def copy(source: Path, target: Path) -> None:
    """Copies a file; `target` appears only when it is complete."""
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
    elif is_remote(source) and not is_read_only(source):
        s3.copy(source, target)
    else:
        with on_disk(source) as local:
            s3.upload(local, target)


@contextlib.contextmanager
def on_disk(path: Path) -> Iterator[str]:
    """Yields a local path of a file: its own, or that of a copy, which is removed when the block ends."""
    if not is_remote(path):
        yield os.fspath(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copied = os.path.join(folder, os.fspath(path).rpartition("/")[2])
        copy(path, copied)
        yield copied


@contextlib.contextmanager
def folder_on_disk(path: Path) -> Iterator[str]:
    """Yields a local path of a folder with all its contents, like `on_disk`."""
    if not is_remote(path):
        yield os.fspath(path)
        return
    if is_read_only(path):
        raise OSError(errno.EOPNOTSUPP, "folders cannot be read over http; copy it to this machine", os.fspath(path))
    with tempfile.TemporaryDirectory() as folder:
        bucket, prefix = s3.split(path, folder=True)
        for key in s3.keys(path):
            names = key[len(prefix) :].split("/")
            if ".." in names:
                raise OSError(errno.EINVAL, "a key with `..` in it", f"s3://{bucket}/{key}")
            if names[-1]:  # other programs mark folders with empty objects
                copy(f"s3://{bucket}/{key}", os.path.join(folder, *names))
        yield folder


def read_bytes(path: Path) -> bytes:
    """Returns the contents of a file."""
    if not is_remote(path):
        return pathlib.Path(path).read_bytes()
    return web.read(os.fspath(path)) if is_read_only(path) else s3.read(path)


def read_text(path: Path) -> str:
    """Returns the contents of a UTF-8 file."""
    return read_bytes(path).decode("utf-8")


def copy_folder(source: Path, target: str, last: str) -> None:
    """Copies the files in a local folder to an address; the file with the name `last` is copied last."""
    folder = pathlib.Path(source)
    files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    for name in sorted(files, key=lambda name: (name == last, name)):
        copy(folder / name, join(target, *name.split("/")))


def _fetch(source: Path, target: pathlib.Path) -> None:
    """Copies a file to a local temporary path."""
    if not is_remote(source):
        shutil.copyfile(source, target)
    elif is_read_only(source):
        target.write_bytes(web.read(os.fspath(source)))
    else:
        s3.download(source, os.fspath(target))


def _refuse_http(path: Path) -> None:
    if is_read_only(path):
        reason = "http is read-only; choose a local folder or s3://"
        raise OSError(errno.EROFS, reason, os.fspath(path))
