"""Files that appear under their names only when they are whole, and archives of arrays."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Union

from tganv2_tf.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Path = Union[str, "os.PathLike[str]"]


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[pathlib.Path]:
    """Gives a temporary name beside `path`, with its suffix; the file there becomes `path` when the block ends well.

    `path` never shows half of it, not even after a power cut. Where the block raises, nothing is left and `path` is as
    it was before. Folders on the way to it are made.
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[pathlib.Path]:
    """Gives a new folder beside `path`, which becomes `path` when the block ends well; otherwise nothing is left of it.

    Raises:
      UserError: `path` is already there.
    """
    target = pathlib.Path(path)
    if target.exists():
        raise UserError(f"{target} is already there; choose another name, or delete it")
    temporary = target.with_name(f".unfinished-{target.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
        loaded = np.load(path, allow_pickle=False)
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
