"""Files that appear under their names only when they are whole, and archives of arrays."""

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
def whole_file(path: Path) -> Iterator[pathlib.Path]:
    """Gives a temporary name beside `path`, with its suffix; the file there becomes `path` when the block ends well.

    `path` never shows half of it, not even after a power cut. Where the block raises, nothing is left and `path` is as
    it was before. Folders on the way to it are made. For an address, the name is that of a local file, to be uploaded.
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


def check_destination(path: Path, what: str, advice: str = "name another place", *, is_folder: bool = False) -> None:
    """Makes sure that something can be written to a place, before the work whose result it is; nothing stays there.

    Args:
      path: a file or folder; the folders on the way need not exist. Of a bucket it is checked that it can be reached.
      what: is to be written, for the message, such as `--output=a.gif`.
      advice: what to do if it cannot be written.
      is_folder: whether it is a folder, which may exist.
    Raises:
      UserError: it cannot be written.
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
    """Makes the names in a folder outlast a power cut; an `fsync` of a file keeps its bytes alone."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems over the network
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[pathlib.Path]:
    """Gives a new folder beside `path`, which becomes `path` when the block ends well; otherwise nothing is left of it.

    Raises:
      UserError: `path` is already there.
    """
    target = pathlib.Path(path)
    if target.exists():
        raise UserError(f"{target} is already there; choose another name, or delete it")
    temporary = target.with_name(f".unfinished-{target.name}.{storage.unique()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class InUseError(UserError):
    """Another process has the lock."""


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Keeps other processes of this machine out; the system lets go of the lock even when a process is killed.

    Args:
      path: of the lock, an empty file that stays. For a remote one a file among this machine's temporary ones.
      what: is in use, for the message.
    Raises:
      InUseError: another process has the lock.
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
                raise InUseError(f"{what}: another process of this machine is writing to it") from error
        yield


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_npz(path: Path, whose: str) -> dict[str, np.ndarray]:
    """All arrays of an .npz by their names; nothing in it is executed.

    Args:
      path: the file.
      whose: what it should have been written by, for the message: `the authors' code`.
    Raises:
      UserError: no such file, no .npz, or a damaged one; the message names the array that cannot be read.
    """
    import numpy as np

    arrays = {}
    name = ""
    try:
        with storage.on_disk(path) as local:
            loaded = np.load(local, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise UserError(f"{path}: a single array; valid: an .npz that {whose} saved")
            with loaded:
                for name in loaded.files:
                    arrays[name] = loaded[name]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        where = f" at {name!r}" if name else ""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read as an .npz of {whose}{where}: {reason}") from error
    return arrays
