"""Files that appear under their names only when they are whole."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Union

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


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
