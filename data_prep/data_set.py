"""What is to be prepared: the videos, their classes, and how their frames are made."""

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
    """What a script hands over to be prepared.

    Attributes:
      name: of the data set, such as `ucf101`; with `split` the beginning of the shards' names.
      split: such as `train`.
      height: of the frames that `reader` gives, in pixels.
      width: of the frames that `reader` gives, in pixels.
      labels: names of the classes in the order of their numbers.
      videos: with unique ids; their order means nothing.
      missing: ids of videos that should be there and are not.
      reader: gives the frames of a video; importable from its module.
      options: the script's own options that the frames and the choice of videos depend on.
      source: the flag that names where the videos are.
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
        """Everything that the bytes of the shards depend on, by the names of the flags."""
        listed = "\n".join(sorted(f"{video.id} {video.label} {video.label_name}" for video in self.videos))
        ours = ("encoding", "jpeg_quality", "shard_mib", "min_frames", "max_record_frames", "seed")
        return {
            "data_set": self.name,
            "split": self.split,
            **self.options,
            **{name: getattr(options, name) for name in ours},
            "videos": f"{len(self.videos)} with digest {hashlib.sha256(listed.encode()).hexdigest()[:16]}",
        }

    def videos_per_class(self, without: Sequence[str] = ()) -> list[int]:
        """Number of videos of each class, in the order of `labels`, but for the videos with some ids."""
        left_out = set(without)
        counts = collections.Counter(video.label for video in self.videos if video.id not in left_out)
        return [counts[label] for label in range(len(self.labels))]
