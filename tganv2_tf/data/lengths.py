"""Counts videos that are too short for a clip and therefore never used in training."""

from __future__ import annotations

import collections

from tganv2_tf import storage
from tganv2_tf.config import DataConfig
from tganv2_tf.data.inspection import DamagedError, read_lengths
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.data.records import source_video
from tganv2_tf.storage.files import Path


def span(num_frames: int, frame_step: int) -> int:
    """Returns the number of video frames from the first to the last frame of a clip."""
    return (num_frames - 1) * frame_step + 1


def count_shorter(manifest: Manifest, folder: Path, least: int) -> int | None:
    """Counts the videos that have no record with at least `least` frames.

    Args:
      manifest: Manifest of the data set.
      folder: Folder of its shards, which are read only if the manifest is of an older version.
      least: Minimum number of frames.
    Returns:
      The number of videos; None if unknown, because the shards would have to be read but are remote or damaged.
    """
    min_frames = manifest.options.get("min_frames")
    if isinstance(min_frames, int) and min_frames >= least:
        return 0
    if manifest.longest_records:
        return sum(count for frames, count in manifest.longest_records.items() if int(frames) < least)
    if storage.is_remote(folder):
        return None
    longest: collections.Counter[str] = collections.Counter()
    try:
        for path in manifest.shard_paths(folder):
            for record_id, frames in read_lengths(path):
                video = source_video(record_id)
                longest[video] = max(longest[video], frames)
    except (DamagedError, OSError):
        return None
    return sum(frames < least for frames in longest.values())


def describe_too_short(manifest: Manifest, data: DataConfig, num_frames: int) -> str:
    """Returns a message about videos that are too short for a clip, in one line; empty if there are none.

    Args:
      manifest: Manifest of the data set in `data.data_dir`.
      data: Sampling options.
      num_frames: Number of frames per clip.
    """
    least = span(num_frames, data.frame_step)
    count = count_shorter(manifest, data.data_dir, least)
    if count is None:
        return (
            f"{data.data_dir}: unknown how many of the {manifest.num_videos} videos are shorter than the "
            f"{least} frames of a clip and therefore never used; newer data sets record this"
        )
    if not count:
        return ""
    return (
        f"{data.data_dir}: {count} of {manifest.num_videos} videos are shorter than the {least} frames of a clip and "
        "are never used"
    )
