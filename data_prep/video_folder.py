"""Prepares a folder of videos of any kind: -> TFRecord shards and a manifest.

python -m data_prep.video_folder --video_dir=VIDEOS --split=train --resolution=128 --output_dir=data/own/train
python -m data_prep.video_folder --video_dir=VIDEOS --split=all --face_box --output_dir=data/faces

The folder that a video lies in is its label, e.g. `sports/tennis`; videos at the top have none. The id of a video is
its path in the folder. Hidden files and folders are left out. Links are followed, also out of the folder; where they go
round in circles, each folder counts once.

Frames are what a good player shows: colours by the declared matrix and range, upright, with square pixels,
deinterlaced; grey becomes three equal channels, transparency goes. HDR is refused. Every coded frame is a frame of the
data set, in order, whatever its time; --fps=25 resamples all videos to one rate instead, which mixtures of rates need.

Whether a video belongs to the test split depends on its id and --split_seed alone: it stays where it is when others
come or go. So --test_fraction is met only roughly, by chance.

--face_box crops the main face of each video, with a detector that comes with OpenCV; videos should be single shots.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
import sys

from data_prep.options import ShardingOptions, VideoDirOptions, recorded_fps
from data_prep.readers import read_detected_face, read_resized
from data_prep.shard_writer import Reader, Video
from data_prep.sharding import DataSet, prepare
from tganv2_tf import cli_flags
from tganv2_tf.config import option, require
from tganv2_tf.data.records import NO_LABEL
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.folders import VIDEO_NAME, walk
from tganv2_tf.geometry import frame_size
from tganv2_tf.ray_cluster import RunnerOptions


@dataclasses.dataclass(frozen=True)
class VideoFolderOptions(VideoDirOptions):
    """Videos and frames."""

    split: str = option("which videos; all = train and test", "all", ("train", "test", "all"))
    test_fraction: float = option("rough share of the videos that is for tests", 0.1)
    split_seed: int = option("another seed, another choice of videos for tests", 0)
    face_box: bool = option("crop the main face of each video instead of the centre", False)
    face_margin: float = option("widens the square of --face_box on each side, as a share of its side", 0.3)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.test_fraction <= 1, "test_fraction", self.test_fraction, "0 to 1")
        require(0 <= self.face_margin <= 2, "face_margin", self.face_margin, "0 to 2")
        if self.face_box and self.geometry != "paper":
            raise ConfigError(f"--geometry={self.geometry}: --face_box makes squares; leave one of the two out")


def find_videos(folder: pathlib.Path) -> tuple[dict[str, str], list[str]]:
    """Paths of all videos below a folder by their ids, and paths of the files that are no videos.

    Raises:
      UserError: no such folder, or no videos.
      OSError: a folder cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"--video_dir={folder}: no such folder")
    videos: dict[str, str] = {}
    others: list[str] = []
    for parent, names in walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if VIDEO_NAME.fullmatch(name):
                videos[_id(folder, path)] = path
            elif not name.startswith("."):
                others.append(path)
    if not videos:
        raise UserError(f"--video_dir={folder}: no videos in it or below")
    return videos, others


def _id(folder: pathlib.Path, path: str) -> str:
    relative = pathlib.Path(path).relative_to(folder).as_posix()
    # Names of files may be any bytes, texts in records may not.
    return os.fsencode(relative).decode("utf-8", "backslashreplace")


def is_for_test(video_id: str, test_fraction: float, split_seed: int) -> bool:
    """Whether a video belongs to the test split: of many a share of `test_fraction`, evenly by chance."""
    digest = hashlib.sha256(f"split {split_seed} {video_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < test_fraction * 2**64


def data_set(options: VideoFolderOptions) -> DataSet:
    """Finds the videos of a split and their labels, which are numbered alike in all splits.

    Raises:
      UserError: no such folder, or no videos in it or in the split.
    """
    folder = pathlib.Path(options.video_dir)
    found, others = find_videos(folder)
    labels = sorted({_label_name(video_id) for video_id in found} - {""})
    numbers = {"": NO_LABEL, **{label: number for number, label in enumerate(labels)}}
    videos = []
    for video_id, path in found.items():
        for_test = is_for_test(video_id, options.test_fraction, options.split_seed)
        if options.split in ("all", "test" if for_test else "train"):
            label = _label_name(video_id)
            videos.append(Video(video_id, path, numbers[label], label))
    if not videos:
        raise UserError(
            f"--split={options.split}: none of the {len(found)} videos fell into it; try another --split_seed or "
            "--test_fraction"
        )
    ignored = f"; files of other kinds: {len(others)}, e.g. {_id(folder, others[0])}" if others else ""
    print(f"{folder}: {len(videos)} of {len(found)} videos for --split={options.split}{ignored}")
    size = options.resolution
    reader: Reader
    if options.face_box:
        height, width = size, size
        reader = functools.partial(read_detected_face, margin=options.face_margin, resolution=size, fps=options.fps)
    else:
        height, width = frame_size(options.geometry, size)
        reader = functools.partial(read_resized, geometry=options.geometry, resolution=size, fps=options.fps)
    recorded = ("geometry", "resolution", "test_fraction", "split_seed", "face_box", "face_margin")
    return DataSet(
        name="video_folder",
        split=options.split,
        height=height,
        width=width,
        labels=labels,
        videos=videos,
        missing=[],
        reader=reader,
        options={**{name: getattr(options, name) for name in recorded}, **recorded_fps(options.fps)},
    )


def _label_name(video_id: str) -> str:
    return video_id.rpartition("/")[0]


def main(options: VideoFolderOptions, sharding: ShardingOptions, runner: RunnerOptions) -> int:
    """Prepares one split."""
    return prepare(data_set(options), sharding, runner)


if __name__ == "__main__":
    option_types = (VideoFolderOptions, ShardingOptions, RunnerOptions)
    sys.exit(cli_flags.run(main, option_types, "data_prep.video_folder", __doc__))
