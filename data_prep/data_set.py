"""Description of a data set to prepare: its videos, classes and frame reader."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from data_prep.options import ShardingOptions
from data_prep.shard_writer import Reader, Video


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set to prepare.

    Attributes:
      name: Name of the data set, such as `ucf101`. Shard names start with `name` and `split`.
      split: Name of the split, such as `train`.
      height: Height of the frames that `reader` returns, in pixels.
      width: Width of the frames that `reader` returns, in pixels.
      labels: Class names, ordered by class number.
      videos: Videos with unique ids, in any order.
      missing: Ids of expected videos that were not found.
      reader: Reads the frames of a video. Must be importable from its module.
      options: Options of the script that affect the frames or the choice of videos.
      source: Flag that names the folder of the videos.
    """

    name: str
    split: str
    height: int
    width: int
    labels: Sequence[str]
    videos: Sequence[Video]
    missing: Sequence[str]
    reader: Reader
    options: dict[str, Any]
    source: str = "--video_dir"

    def made_with(self, options: ShardingOptions) -> dict[str, Any]:
        """Returns every option that affects the bytes of the shards, by flag name."""
        listed = "\n".join(sorted(f"{video.id} {video.label} {video.label_name}" for video in self.videos))
        recorded = ("encoding", "jpeg_quality", "shard_mib", "min_frames", "max_record_frames", "seed")
        return {
            "data_set": self.name,
            "split": self.split,
            **self.options,
            **{name: getattr(options, name) for name in recorded},
            "videos": f"{len(self.videos)} with digest {hashlib.sha256(listed.encode()).hexdigest()[:16]}",
        }

    def videos_per_class(self, without: Sequence[str] = ()) -> list[int]:
        """Returns the number of videos per class, ordered as `labels`, excluding the ids in `without`."""
        excluded = set(without)
        counts = collections.Counter(video.label for video in self.videos if video.id not in excluded)
        return [counts[label] for label in range(len(self.labels))]
