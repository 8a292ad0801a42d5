"""Sizes and modification times of the videos' files, by which it is seen whether one of them has changed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence

from data_prep.shard_writer import Video
from tganv2_tf import storage
from tganv2_tf.data.manifest import MANIFEST_FILE, Manifest
from tganv2_tf.files import Path
from tganv2_tf.folders import frame_paths

DIGITS = 8  # of each video, in the manifest


def state(video: Video) -> str:
    """Size and modification time of a video's files.

    It is kept beside each finished shard and not among the options: a changed video is no reason to refuse the folder.
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
    """The states of a shard's videos as its manifest keeps them: a few digits of each, as there may be millions."""
    return "".join(_digest(each, DIGITS) for each in states)


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:digits]


def changed(videos: Sequence[Video], manifest: Manifest, folder: str) -> list[str]:
    """Ids of the videos that are not as they were when a finished data set was made.

    Data sets of older versions do not tell how they were. Videos that are newer than such a data set have changed; if
    it is in a bucket, whose clock is another, nothing is known.

    Args:
      videos: in their order in the shards.
      manifest: of the data set.
      folder: of the data set.
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
