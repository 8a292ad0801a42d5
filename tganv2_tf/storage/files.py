"""Atomic writing of files and folders, file locks, and reading of .npz archives."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pathlib
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Union

from tganv2_tf import storage
from tganv2_tf.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import numpy as np

Path = Union[str, "os.PathLike[str]"]


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[pathlib.Path]:
    """Writes a file atomically. Yields a temporary path beside `path`, with its suffix, which is renamed to `path`.

    `path` is never incomplete, not even after a power failure. If the block raises, `path` is unchanged and the
    temporary file is removed. Missing parent folders are created. For a remote address, a local file is uploaded.
    """
    if storage.is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            local = pathlib.Path(folder) / os.fspath(path).rpartition("/")[2]
            yield local
            storage.copy(local, path)
        return
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{storage.unique()}{target.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_destination(path: Path, what: str, advice: str = "choose another path", *, is_folder: bool = False) -> None:
    """Checks, before long work, that its result can be written. Leaves no files.

    Args:
      path: a file or folder; parents need not exist. A bucket must be reachable.
      what: the output, for the message, such as `--output=a.gif`.
      advice: what to do if it cannot be written.
      is_folder: whether it is a folder, which may exist.
    Raises:
      UserError: the output cannot be written.
    """
    try:
        if storage.is_remote(path):
            storage.make_folder(path)
            storage.exists(path)
            return
        target = pathlib.Path(path).absolute()
        if target.is_dir() and not is_folder:
            raise UserError(f"{what}: it is a folder; name a file")
        places = (target, *target.parents) if is_folder else target.parents
        existing = next(place for place in places if place.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"{what}: cannot be written: {error.strerror or error}; {advice}") from error


def sync_folder(folder: Path) -> None:
    """Syncs a folder, so that renames survive a power failure; `fsync` of a file covers only its contents."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[pathlib.Path]:
    """Writes a folder atomically. Yields a new folder beside `path`, which is renamed to `path`, or removed on errors.

    Raises:
      UserError: `path` already exists.
    """
    target = pathlib.Path(path)
    if target.exists():
        raise UserError(f"{target} already exists; choose another name, or delete it")
    temporary = target.with_name(f".unfinished-{target.name}.{storage.unique()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class InUseError(UserError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds a lock against other processes of this machine. The system releases it even if the process is killed.

    Args:
      path: path of the lock, an empty file that is kept. For a remote address, a local temporary file is used.
      what: the locked resource, for the message.
    Raises:
      InUseError: another process holds the lock.
    """
    address = os.fspath(path)
    if "://" in address:
        name = f"tganv2_tf-{hashlib.sha256(address.encode()).hexdigest()[:16]}.lock"
        address = os.path.join(tempfile.gettempdir(), name)
    with open(address, "a", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InUseError(f"{what}: another process on this machine is writing to it") from error
        yield


def write_atomically(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_npz(path: Path, producer: str) -> dict[str, np.ndarray]:
    """Reads all arrays of an .npz by name, without unpickling.

    Args:
      path: the file.
      producer: the program that should have written it, for the message, such as `the authors' code`.
    Raises:
      UserError: the file does not exist, is not an .npz, or is damaged; the message names the unreadable array.
    """
    import numpy as np

    arrays = {}
    name = ""
    try:
        with storage.on_disk(path) as local:
            loaded = np.load(local, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise UserError(f"{path}: a single array; valid: an .npz saved by {producer}")
            with loaded:
                for name in loaded.files:
                    arrays[name] = loaded[name]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        where = f" at {name!r}" if name else ""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read as an .npz of {producer}{where}: {reason}") from error
    return arrays
