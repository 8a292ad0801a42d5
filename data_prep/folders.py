"""Folders of videos, with links and loops."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tganv2_tf.files import Path


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder from this one on down, with the sorted names of its files; hidden folders are left out.

    Links are followed, also to places outside: whoever made them wants what they lead to. A folder that can be reached
    in several ways counts once, so links may make loops.

    Raises:
      OSError: a folder cannot be read.
    """
    visited: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield parent, sorted(names)


def _refuse(error: OSError) -> None:
    raise error
