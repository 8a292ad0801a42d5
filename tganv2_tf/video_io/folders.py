"""Finds videos in folders, including folders of frames. Follows links, and handles loops."""

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
# Names of videos (not hidden, in a container that FFmpeg reads) and of images of frames.
VIDEO_NAME = re.compile(rf"[^.].*\.({EXTENSIONS})", re.IGNORECASE | re.DOTALL)
IMAGE_NAME = re.compile(r"[^.].*\.(jpe?g|png|webp)", re.IGNORECASE | re.DOTALL)


class Found(NamedTuple):
    """Paths of the non-hidden contents of a folder and its subfolders.

    Attributes:
      files: video files.
      frame_folders: folders with images and without video files in them or below; each is one video.
      others: files that belong to no video.
    """

    files: list[str]
    frame_folders: list[str]
    others: list[str]

    @property
    def videos(self) -> list[str]:
        """Video files and folders of frames."""
        return self.files + self.frame_folders


def find_videos(folder: Path, flag: str = "") -> Found:
    """Finds videos in a folder and its subfolders.

    Args:
      folder: path of the folder.
      flag: flag of the folder, for error messages: `--video_dir=`.
    Raises:
      UserError: the folder does not exist or contains no videos.
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


def video_files(video: Path) -> list[str]:
    """Returns the paths of a video's files: the file itself, or the images of its frames."""
    return frame_paths(video) if os.path.isdir(video) else [os.fspath(video)]


def frame_paths(folder: Path) -> list[str]:
    """Returns the paths of the images in a folder, in natural order: frame_2.jpg before frame_10.jpg.

    Raises:
      OSError: the folder cannot be read.
    """
    names = filter(IMAGE_NAME.fullmatch, os.listdir(folder))
    return [os.path.join(folder, name) for name in sorted(names, key=_natural)]


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key that compares numbers by value; equal numbers (1 and 01) are ordered by the name."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields this folder and its non-hidden subfolders, with the sorted names of their files.

    Links are followed, also to places outside of the folder. Each real folder is visited once, so loops are harmless.

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
