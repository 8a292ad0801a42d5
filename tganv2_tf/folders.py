"""Folders of videos: which files and folders are videos, with links and loops."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from tganv2_tf.errors import UserError
from tganv2_tf.storage.retries import Path

EXTENSIONS = (
    "3g2|3gp|asf|avi|divx|dv|f4v|flv|gif|m2ts|m2v|m4v|mjpe?g|mkv|mov|mp4|mpe?g|mpe|mts|mxf|ogv|qt|ts|vob|webm|wmv|y4m"
)
# Files that are offered as videos: not hidden, in a container that FFmpeg reads. And files that are offered as frames.
VIDEO_NAME = re.compile(rf"[^.].*\.({EXTENSIONS})", re.IGNORECASE | re.DOTALL)
IMAGE_NAME = re.compile(r"[^.].*\.(jpe?g|png|webp)", re.IGNORECASE | re.DOTALL)


class Found(NamedTuple):
    """Paths of what is in a folder and below, but for what is hidden.

    Attributes:
      files: videos.
      frame_folders: folders that hold images, and no video file in them or below: each is a video.
      others: files that belong to no video.
    """

    files: list[str]
    frame_folders: list[str]
    others: list[str]

    @property
    def videos(self) -> list[str]:
        """Files and folders of frames."""
        return self.files + self.frame_folders


def find_videos(folder: Path, flag: str = "") -> Found:
    """Looks for videos in a folder and below.

    Args:
      folder: its path.
      flag: that gave it, for the messages: `--video_dir=`.
    Raises:
      UserError: no such folder, or no videos.
      OSError: a folder cannot be read.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{flag}{folder}: no such folder")
    found, with_images = Found([], [], []), []
    for parent, names in walk(folder):
        paths = [os.path.join(parent, name) for name in names if IMAGE_NAME.fullmatch(name) is None]
        if len(paths) < len(names):
            with_images.append(parent)
        for path in paths:
            name = os.path.basename(path)
            if VIDEO_NAME.fullmatch(name):
                found.files.append(path)
            elif not name.startswith("."):
                found.others.append(path)
    holding: set[str] = set()
    for path in found.files if with_images else ():
        while (path := os.path.dirname(path)) not in holding:
            holding.add(path)
    for parent in with_images:
        if parent in holding:
            found.others.extend(frame_paths(parent))
        else:
            found.frame_folders.append(parent)
    if not found.videos:
        raise UserError(f"{flag}{folder}: no videos in it or below")
    return found


def files_of(video: Path) -> list[str]:
    """Paths of the files that a video consists of: its own, or those of its frames."""
    return frame_paths(video) if os.path.isdir(video) else [os.fspath(video)]


def frame_paths(folder: Path) -> list[str]:
    """Paths of the images in a folder, in the order of the numbers in their names: frame_2.jpg before frame_10.jpg.

    Raises:
      OSError: the folder cannot be read.
    """
    names = filter(IMAGE_NAME.fullmatch, os.listdir(folder))
    return [os.path.join(folder, name) for name in sorted(names, key=_natural)]


def _natural(name: str) -> tuple[list[str | int], str]:
    """A key that sorts numbers by their values; the name decides between 1 and 01."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = map(int, parts[1::2])
    return parts, name


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
