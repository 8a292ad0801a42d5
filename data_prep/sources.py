"""Detects changed videos by the sizes and modification times of their files."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence

from data_prep.shard_writer import Video
from tganv2_tf import storage
from tganv2_tf.data.manifest import MANIFEST_FILE, Manifest
from tganv2_tf.storage.files import Path
from tganv2_tf.video_io.folders import frame_paths

DIGITS = 8  # per video, in the manifest


def state(video: Video) -> str:
    """Returns the sizes and modification times of a video's files, as text.

    They are stored with each finished shard and not with the options: a changed video must not make the folder
    unusable.
    """
    try:
        return "; ".join(map(_state, video.files))
    except OSError:
        return "missing"


def _state(path: Path) -> str:
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        frames = "\n".join(f"{os.path.basename(frame)} {_state(frame)}" for frame in frame_paths(path))
        return f"frames with digest {_digest(frames, 16)}"
    return f"{found.st_size} bytes, {found.st_mtime_ns} ns"


def in_manifest(states: Iterable[str]) -> str:
    """Returns the states of a shard's videos as stored in the manifest: a few digits each, as there may be millions."""
    return "".join(_digest(each, DIGITS) for each in states)


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:digits]


def changed(videos: Sequence[Video], manifest: Manifest, folder: str) -> list[str]:
    """Returns the ids of the videos that have changed since a finished data set was made.

    Data sets of older versions did not record states. Videos newer than such a data set count as changed; for one in a
    bucket, whose clock may differ, changes cannot be detected.

    Args:
      videos: Videos in their order in the shards.
      manifest: Manifest of the data set.
      folder: Folder of the data set.
    """
    if manifest.sources:
        now = in_manifest(map(state, videos))
        before = "".join(manifest.sources)
        starts = range(0, len(now), DIGITS)
        return [v.id for v, at in zip(videos, starts) if now[at : at + DIGITS] != before[at : at + DIGITS]]
    if storage.is_remote(folder):
        return []
    finished = os.stat(storage.join(folder, MANIFEST_FILE)).st_mtime_ns
    return [
        video.id
        for video in videos
        if any(os.path.exists(path) and os.stat(path).st_mtime_ns > finished for path in video.files)
    ]
