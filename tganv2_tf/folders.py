"""Folders of videos: which files are videos, with links and loops."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from tganv2_tf.storage.retries import Path

# Files that are offered as videos: not hidden, in a container that FFmpeg reads.
VIDEO_NAME = re.compile(
    r"[^.].*\.(3g2|3gp|asf|avi|divx|dv|f4v|flv|gif|m2ts|m2v|m4v|mjpe?g|mkv|mov|mp4|mpe?g|mpe|mts|mxf|ogv|qt|ts|vob|webm|"
    r"wmv|y4m)",
    re.IGNORECASE | re.DOTALL,
)


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder from this one on down, with the sorted names of its files; hidden folders are left out.

    Links are followed, also to places outside of the folder. A folder that can be reached
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
